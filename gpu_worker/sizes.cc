#include "gpu_worker/sizes.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/kv/summary.h"
#include "gpu_worker/plan_options.h"

namespace hga {
namespace {

constexpr uint64_t kKi = 1024;
constexpr uint64_t kScaleTile = 128 * 128;  // FP8 weights that share one f32 scale

struct Shape {
  uint32_t layers, hidden, ffn, query_heads, kv_heads, head_dim, vocab_size;
};

ModelConfig Config(const std::string& name, const Shape& s, bool qk_norm) {
  ModelConfig c;
  c.name = name;
  c.layers = s.layers;
  c.hidden = s.hidden;
  c.ffn = s.ffn;
  c.query_heads = s.query_heads;
  c.kv_heads = s.kv_heads;
  c.head_dim = s.head_dim;
  c.vocab_size = s.vocab_size;
  c.qk_norm = qk_norm;
  return c;
}

KnownModel Qwen3Moe() {
  KnownModel m;
  m.config = Config("Qwen3-30B-A3B-FP8", {48, 2048, 0, 32, 4, 128, 151936}, true);
  m.config.experts = 128;
  m.config.experts_per_token = 8;
  m.config.expert_ffn = 768;
  m.fp8 = true;
  m.contexts = {64 * kKi, 256 * kKi, 1024 * kKi};
  return m;
}

// Of the matrices that FP8 checkpoints hold in FP8.
uint64_t MatrixParameters(const ModelConfig& c) {
  const uint64_t q = uint64_t{c.query_heads} * c.head_dim, kv = uint64_t{c.kv_heads} * c.head_dim;
  const uint64_t mlp = 3 * uint64_t{c.hidden} * (c.experts > 0 ? uint64_t{c.experts} * c.expert_ffn : c.ffn);
  return c.layers * (c.hidden * (2 * q + 2 * kv) + mlp);
}

std::string GiB(uint64_t bytes) {
  const double value = static_cast<double>(bytes) / (1 << 30);
  return absl::StrFormat(value < 10 ? "%.2f" : "%.0f", value);
}

}  // namespace

uint64_t KnownModel::parameters() const {
  const ModelConfig& c = config;
  const uint64_t embedding = uint64_t{c.vocab_size} * c.hidden;
  const uint64_t norms = 2 * uint64_t{c.hidden} + (c.qk_norm ? 2 * c.head_dim : 0);
  const uint64_t gate = uint64_t{c.hidden} * c.experts;
  return embedding * (tied_output ? 1 : 2) + MatrixParameters(c) + c.layers * (norms + gate) + c.hidden;
}

uint64_t KnownModel::weight_bytes() const {
  const uint64_t matrices = MatrixParameters(config);
  return fp8 ? 2 * (parameters() - matrices) + matrices + matrices / kScaleTile * sizeof(float) : 2 * parameters();
}

const std::vector<KnownModel>& KnownModels() {
  static const auto* const models = new std::vector<KnownModel>{
      {Config("SmolLM2-135M", {30, 576, 1536, 9, 3, 64, 49152}, false), true, false, {8 * kKi}},
      {Config("Qwen3-0.6B", {28, 1024, 3072, 16, 8, 128, 151936}, true), true, false, {32 * kKi}},
      {Config("Qwen3-8B", {36, 4096, 12288, 32, 8, 128, 151936}, true), false, false, {32 * kKi, 128 * kKi}},
      Qwen3Moe()};
  return *models;
}

absl::Status WriteSizes(const EngineOptions& engine, std::ostream& out) {
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* method, FindSummaryMethod(engine.summary_method));
  out << "| model | context | weights | K/V, RAM or disk | summaries, RAM | GPU memory | with all K/V on the GPU |\n"
         "|---|---|---|---|---|---|---|\n";
  for (const KnownModel& model : KnownModels()) {
    for (const uint64_t context : model.contexts) {
      const MemoryPlan plan = PlanMemory(model.config, model.config.Geometry(), *method,
                                         PlanOptions(engine, context, model.weight_bytes()));
      const uint64_t dense = plan.weights + plan.runtime + plan.workspace + plan.kv_store;
      out << absl::StrFormat("| %s | %dK | %s | %s | %s | %s | %s |\n", model.config.name, context / kKi,
                             GiB(plan.weights), GiB(plan.kv_store), GiB(plan.router), GiB(plan.required()), GiB(dense));
    }
  }
  out << std::flush;
  return absl::OkStatus();
}

}  // namespace hga
