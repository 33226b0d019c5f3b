#include "client/bench/bench_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/statistics.h"

namespace hga {
namespace {

using gpu_worker::v1::Finished;
using gpu_worker::v1::GetModelResponse;

double PrefillFlops(const GetModelResponse& model, const Finished& f) {
  const double tokens = f.prompt_tokens(), first = f.reused_tokens();
  const double dense_keys = (tokens * (tokens + 1) - first * (first + 1)) / 2;  // of all computed tokens
  const double attention = 4.0 * model.head_dim() * model.query_heads() * model.layers() * dense_keys;
  return 2.0 * (model.active_parameters() * (tokens - first) + model.output_parameters()) +
         attention * f.prefill_attended_fraction();
}

double DecodeStepBytes(const GetModelResponse& model, const Finished& f) {
  const double mean_keys = f.prompt_tokens() + (f.decode_steps() + 1) / 2.0;  // a dense model's
  return model.decode_weight_bytes() + model.kv_bytes_per_token() * mean_keys * f.attended_fraction();
}

double Ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

// "31%", or a dash where there is no limit or no figure.
std::string Share(double value, double limit) {
  return value > 0 && limit > 0 ? absl::StrFormat("%.0f%%", 100 * value / limit) : "-";
}

std::string OrDash(double value, int digits) { return value > 0 ? absl::StrFormat("%.*f", digits, value) : "-"; }

constexpr char kColumns[] = "%7s %-6s | %9s %8s %5s %8s | %9s %8s %6s %5s %6s | %s\n";

void AddRow(const BenchRow& row, const MachineLimits& limits, nlohmann::json* json) {
  const BenchFigures& f = row.figures;
  const std::string end = absl::StrCat("_", row.mode, "_", row.depth);
  (*json)["prefill_tps" + end] = f.prefill_tps;
  (*json)["prefill_gflops" + end] = f.prefill_gflops;
  (*json)["ttft_s" + end] = f.ttft_s;
  if (limits.fma_gflops > 0) (*json)["prefill_fma_share" + end] = f.prefill_gflops / limits.fma_gflops;
  (*json)["held_share" + end] = f.held;
  (*json)["ram_share" + end] = f.ram;
  (*json)["disk_share" + end] = f.disk;
  if (row.mode == "routed") (*json)[absl::StrCat("prefill_attended_fraction_", row.depth)] = f.prefill_attended;
  if (f.decode_tps <= 0) return;
  (*json)["decode_tps" + end] = f.decode_tps;
  (*json)["decode_ms" + end] = 1e3 / f.decode_tps;
  (*json)["decode_gbps" + end] = f.decode_gbps;
  if (limits.read_gbps > 0) (*json)["decode_read_share" + end] = f.decode_gbps / limits.read_gbps;
  if (row.mode == "routed") (*json)[absl::StrCat("attended_fraction_", row.depth)] = f.attended;
}

}  // namespace

BenchFigures FiguresOf(const GetModelResponse& model, const Finished& f) {
  BenchFigures out;
  out.prefill_tps = PrefillRate(f);
  out.prefill_gflops = Ratio(PrefillFlops(model, f), f.prefill_s()) / 1e9;
  out.ttft_s = f.ttft_s();
  out.decode_tps = f.decode_steps() > 0 ? DecodeRate(f) : 0;
  out.decode_gbps = DecodeStepBytes(model, f) * out.decode_tps / 1e9;
  out.attended = f.attended_fraction();
  out.prefill_attended = f.prefill_attended_fraction();
  const auto& t = f.tiers();
  const auto blocks = static_cast<double>(t.device() + t.held() + t.keys() + t.ram() + t.disk() + t.recomputed());
  out.held = Ratio(t.device() + t.held() + t.keys(), blocks);
  out.ram = Ratio(t.ram(), blocks);
  out.disk = Ratio(t.disk(), blocks);
  return out;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

BenchFigures MedianOf(const std::vector<BenchFigures>& runs) {
  BenchFigures out;
  for (const auto field : {&BenchFigures::prefill_tps, &BenchFigures::prefill_gflops, &BenchFigures::ttft_s,
                           &BenchFigures::decode_tps, &BenchFigures::decode_gbps, &BenchFigures::attended,
                           &BenchFigures::prefill_attended, &BenchFigures::held, &BenchFigures::ram,
                           &BenchFigures::disk}) {
    std::vector<double> values;
    for (const BenchFigures& run : runs) values.push_back(run.*field);
    out.*field = Median(std::move(values));
  }
  return out;
}

std::string BenchHeader(const GetModelResponse& model, const MachineLimits& limits) {
  std::string text = absl::StrFormat("model    %s, %.0f million parameters, backend %s, %d threads\n", model.name(),
                                     model.parameters() / 1e6, model.backend(), model.threads());
  if (limits.read_gbps > 0) {
    absl::StrAppendFormat(&text, "machine  %s: memory is read at %.1f GB/s, f32 FMA does %.0f GFLOP/s, all cores\n",
                          limits.name, limits.read_gbps, limits.fma_gflops);
  }
  absl::StrAppendFormat(&text, kColumns, "depth", "mode", "prefill/s", "GFLOP/s", "FMA", "first s", "decode/s",
                        "ms/token", "GB/s", "read", "keys", "blocks held/RAM/disk");
  return text;
}

std::string BenchLine(const BenchRow& row, const MachineLimits& limits) {
  const BenchFigures& f = row.figures;
  const bool decoded = f.decode_tps > 0;
  return absl::StrFormat(kColumns, absl::StrCat(row.depth), row.mode, OrDash(f.prefill_tps, 1),
                         OrDash(f.prefill_gflops, 1), Share(f.prefill_gflops, limits.fma_gflops),
                         OrDash(f.ttft_s, 3), OrDash(f.decode_tps, 1), decoded ? OrDash(1e3 / f.decode_tps, 2) : "-",
                         OrDash(f.decode_gbps, 2), Share(f.decode_gbps, limits.read_gbps),
                         decoded ? absl::StrFormat("%.1f%%", 100 * f.attended) : "-",
                         absl::StrFormat("%.1f/%.1f/%.1f%%", 100 * f.held, 100 * f.ram, 100 * f.disk));
}

std::string ResumeLine(const ResumeRow& row) {
  return absl::StrFormat("%7d again  | first token after %.3f s (%.1f%% of %.3f s), %d tokens from the store\n",
                         row.depth, row.ttft_s, 100 * Ratio(row.ttft_s, row.full_ttft_s), row.full_ttft_s,
                         row.reused_tokens);
}

nlohmann::json BenchJson(const BenchReport& report) {
  const GetModelResponse& model = report.model;
  nlohmann::json json = {{"model", model.name()},
                         {"backend", model.backend()},
                         {"threads", model.threads()},
                         {"kv_bytes_per_token", model.kv_bytes_per_token()},
                         {"decode_weight_bytes", model.decode_weight_bytes()}};
  if (report.limits.read_gbps > 0) {
    json["machine"] = report.limits.name;
    json["read_bandwidth_gbps"] = report.limits.read_gbps;
    json["fma_gflops"] = report.limits.fma_gflops;
  }
  for (const BenchRow& row : report.rows) AddRow(row, report.limits, &json);
  for (const ResumeRow& row : report.resumes) {
    json[absl::StrCat("resume_ttft_s_", row.depth)] = row.ttft_s;
    json[absl::StrCat("resume_reused_tokens_", row.depth)] = row.reused_tokens;
  }
  return json;
}

}  // namespace hga
