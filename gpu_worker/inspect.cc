#include "gpu_worker/inspect.h"

#include <algorithm>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/kv/summary.h"
#include "gpu_worker/memory_plan.h"
#include "gpu_worker/model/model_headers.h"
#include "gpu_worker/model/tensor_list.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

using nlohmann::ordered_json;

// Everything that is shown.
struct Inspection {
  ModelHeaders headers;
  std::map<std::string, TypeShare> types;
  uint64_t parameters = 0;
  KvGeometry geometry;  // blocks of bf16
  uint64_t int8_bytes_per_token = 0;
  MemoryPlan plan;
  double summary_bytes_per_token = 0;
  uint64_t context_tokens = 0;
  uint64_t device_memory = 0;

  bool fits() const { return plan.required() <= device_memory; }
};

absl::StatusOr<Inspection> Examine(const InspectOptions& options, const EngineOptions& engine) {
  Inspection x;
  HGA_ASSIGN_OR_RETURN(x.headers, ReadModelHeaders(options.path));
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* method, FindSummaryMethod(engine.summary_method));
  const ModelConfig& config = x.headers.weights.config;
  x.types = x.headers.Types();
  x.parameters = CountParameters(x.headers.weights);
  x.geometry = config.Geometry();
  KvGeometry int8 = x.geometry;
  int8.dtype = KvDtype::kInt8;
  x.int8_bytes_per_token = int8.bytes_per_token();
  x.context_tokens = options.context_tokens > 0 ? options.context_tokens : config.context_tokens;
  x.device_memory = options.device_memory;
  x.summary_bytes_per_token = static_cast<double>(method->chunk_bytes(x.geometry)) / x.geometry.chunk_tokens;
  x.plan = PlanMemory(x.headers.weights, *method, engine, x.context_tokens, options.device_summaries);
  return x;
}

std::string Human(uint64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, units[unit]);
}

std::string Row(const std::string& name, const std::string& value) { return absl::StrFormat("%-22s%s\n", name, value); }
std::string Cost(const std::string& name, uint64_t bytes) {
  return absl::StrFormat("  %-34s%12s\n", name, Human(bytes));
}

std::string Verdict(const Inspection& x) {
  if (x.device_memory == 0) return "Whether it fits: give --device_memory, e.g. 32GiB\n";
  if (!x.fits()) {
    return absl::StrCat("Does not fit into ", Human(x.device_memory), ": ",
                        Human(x.plan.required() - x.device_memory), " too much\n");
  }
  const uint64_t left = x.device_memory - x.plan.required();
  return absl::StrCat("Fits into ", Human(x.device_memory), "; ", Human(left),
                      " are left for a tier of K/V, a step attends up to ", Human(x.plan.step_kv), "\n");
}

std::string Table(const Inspection& x) {
  const ModelConfig& c = x.headers.weights.config;
  std::string out = Row("model", c.name);
  out += Row("architecture", c.architecture);
  out += Row("file", absl::StrCat(x.headers.format, ", ", x.headers.file_count,
                                  x.headers.file_count == 1 ? " file, " : " files, ", Human(x.headers.file_bytes)));
  out += Row("parameters", x.parameters < 1000000000
                               ? absl::StrFormat("%.1f million", static_cast<double>(x.parameters) / 1e6)
                               : absl::StrFormat("%.2f billion", static_cast<double>(x.parameters) / 1e9));
  for (const auto& [name, share] : x.types) {
    out += Row("  " + name, absl::StrFormat("%d tensors, %s", share.tensors, Human(share.bytes)));
  }
  out += Row("layers", absl::StrCat(c.layers));
  out += Row("heads", absl::StrCat(c.query_heads, " query, ", c.kv_heads, " K/V, of ", c.head_dim));
  if (c.experts > 0) out += Row("experts", absl::StrCat(c.experts, ", ", c.experts_per_token, " for a token"));
  out += Row("context", absl::StrCat(c.context_tokens, " tokens"));
  out += Row("K/V per token", absl::StrCat(Human(x.geometry.bytes_per_token()), "; as int8 ",
                                           Human(x.int8_bytes_per_token)));
  out += Row("summaries per token", Human(static_cast<uint64_t>(x.summary_bytes_per_token)));
  absl::StrAppend(&out, "\nGPU memory at ", x.context_tokens, " tokens\n");
  out += Cost("weights", x.plan.weights);
  out += Cost("runtime (allowance)", x.plan.runtime);
  out += Cost("workspace", x.plan.workspace);
  out += Cost("K/V on its way", x.plan.window);
  if (x.plan.summaries > 0) out += Cost("summaries", x.plan.summaries);
  out += Cost("together", x.plan.required());
  absl::StrAppend(&out, "Host memory for one sequence of that length\n");
  out += Cost("K/V, in RAM or on disk", x.plan.kv_store);
  out += Cost("summaries, in RAM", x.plan.router);
  return out + Verdict(x);
}

ordered_json Json(const Inspection& x) {
  const ModelConfig& c = x.headers.weights.config;
  ordered_json types;
  for (const auto& [name, share] : x.types) {
    types[name] = {{"tensors", share.tensors}, {"parameters", share.parameters}, {"bytes", share.bytes}};
  }
  ordered_json json = {
      {"model", c.name},
      {"architecture", c.architecture},
      {"format", x.headers.format},
      {"files", x.headers.file_count},
      {"file_bytes", x.headers.file_bytes},
      {"parameters", x.parameters},
      {"types", types},
      {"layers", c.layers},
      {"query_heads", c.query_heads},
      {"kv_heads", c.kv_heads},
      {"head_dim", c.head_dim},
      {"experts", c.experts},
      {"model_context_tokens", c.context_tokens},
      {"kv_bytes_per_token", x.geometry.bytes_per_token()},
      {"kv_bytes_per_token_int8", x.int8_bytes_per_token},
      {"summary_bytes_per_token", x.summary_bytes_per_token},
      {"context_tokens", x.context_tokens},
      {"device",
       {{"weights", x.plan.weights},
        {"runtime", x.plan.runtime},
        {"workspace", x.plan.workspace},
        {"window", x.plan.window},
        {"summaries", x.plan.summaries},
        {"required", x.plan.required()},
        {"step_kv", x.plan.step_kv}}},
      {"host", {{"kv_store", x.plan.kv_store}, {"router", x.plan.router}}},
  };
  if (x.device_memory > 0) {
    json["device_memory"] = x.device_memory;
    json["fits"] = x.fits();
  }
  return json;
}

}  // namespace

absl::Status Inspect(const InspectOptions& options, const EngineOptions& engine, std::ostream& out) {
  HGA_ASSIGN_OR_RETURN(const Inspection x, Examine(options, engine));
  if (options.json.empty()) {
    out << Table(x) << std::flush;
    return absl::OkStatus();
  }
  // A file's name or metadata may hold any bytes.
  const std::string line = Json(x).dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  if (options.json == "-") {
    out << line << std::endl;
    return absl::OkStatus();
  }
  std::ofstream file(options.json);
  file << line << "\n";
  file.close();
  if (file.fail()) return absl::UnavailableError(absl::StrCat("cannot write ", options.json));
  return absl::OkStatus();
}

}  // namespace hga
