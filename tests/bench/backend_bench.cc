// Benchmark `backend`: the cpu backend alone, dense attention over synthetic K/V at several depths.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/base/machine_limits.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/model/loaded_model.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"

ABSL_FLAG(std::string, model, "", "GGUF file");
ABSL_FLAG(bool, quick, false, "fewer repetitions");
ABSL_FLAG(int, threads, 0, "threads; 0: one per core");

namespace hga {
namespace {

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct StepTimes {
  double total = 0, attention = 0, logits = 0;
};

class BackendBench {
 public:
  BackendBench(const LoadedModel& model, Backend* backend)
      : g_(model.weights.config.Geometry()), backend_(backend), history_(g_.block_elements()) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (bf16& x : history_) x = ToBf16(normal(random));
    out_.assign(g_.chunk_tokens, history_);
  }

  // One step of `rows` rows that attend `keys` keys each.
  StepTimes Step(uint32_t rows, uint32_t keys) {
    std::vector<BatchRow> batch(rows);
    std::vector<KvRow> kv(rows);
    for (uint32_t r = 0; r < rows; ++r) {
      batch[r] = {r % 1000, keys, r + 1 == rows};
      kv[r] = {out_[r / g_.chunk_tokens].data(), r % g_.chunk_tokens};
    }
    const AttendPlan plan = Plan(rows, keys);
    StepTimes times;
    const double start = Now();
    if (!backend_->Begin(batch).ok()) return times;
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      (void)backend_->PreAttention(layer, kv);
      const double before = Now();
      (void)backend_->Attend(plan);
      times.attention += Now() - before;
      (void)backend_->PostAttention(layer);
    }
    const double before = Now();
    std::vector<float> logits;
    (void)backend_->Logits(&logits);
    times.logits = Now() - before;
    times.total = Now() - start;
    return times;
  }

  StepTimes Median(uint32_t rows, uint32_t keys, int repetitions) {
    std::vector<StepTimes> samples;
    for (int i = 0; i < repetitions; ++i) samples.push_back(Step(rows, keys));
    std::sort(samples.begin(), samples.end(), [](auto& a, auto& b) { return a.total < b.total; });
    return samples[samples.size() / 2];
  }

 private:
  AttendPlan Plan(uint32_t rows, uint32_t keys) {
    AttendPlan plan;
    for (uint32_t first = 0; first < rows; first += g_.chunk_tokens) {
      QueryBlock block{first, std::min(g_.chunk_tokens, rows - first), {}};
      block.runs.resize(g_.kv_heads);
      for (uint32_t key = 0; key < keys; key += g_.group_tokens) {
        for (uint32_t h = 0; h < g_.kv_heads; ++h) {
          const uint32_t group = key / g_.group_tokens % g_.groups_per_chunk();
          block.runs[h].push_back({history_.data() + g_.k_run(h, group), history_.data() + g_.v_run(h, group), key,
                                   static_cast<uint16_t>(g_.group_tokens), 0});
        }
      }
      plan.blocks.push_back(block);
    }
    return plan;
  }

  const KvGeometry g_;
  Backend* const backend_;
  std::vector<bf16> history_;               // one block stands for all: the cost, not the bytes, is measured
  std::vector<std::vector<bf16>> out_;
};

int Run() {
  auto model = LoadModel(absl::GetFlag(FLAGS_model));
  if (!model.ok()) {
    std::fprintf(stderr, "backend_bench: %s\n", model.status().ToString().c_str());
    return 1;
  }
  BackendOptions options;
  options.threads = absl::GetFlag(FLAGS_threads);
  auto backend = CreateBackend("cpu", (*model)->weights, (*model)->weights.config.Geometry(), options);
  if (!backend.ok()) return 1;
  std::printf("backend: %s\n", MachineName().c_str());
  Report report;
  report.Add("read_bandwidth_gbps", "machine: memory read bandwidth, all cores", MeasureReadBandwidth(), "GB/s");
  BackendBench bench(**model, backend->get());
  const int repetitions = absl::GetFlag(FLAGS_quick) ? 5 : 21;
  for (const uint32_t rows : {1u, 4u, 64u, 256u}) {
    for (const uint32_t keys : {256u, 1024u, 8192u}) {
      const StepTimes t = bench.Median(rows, keys, std::max<int>(3, repetitions / (rows > 8 ? 4 : 1)));
      const std::string at = absl::StrCat(rows, " rows, ", keys, " keys");
      report.Add(absl::StrCat("step_ms_", rows, "_", keys), at, t.total * 1e3, "ms");
      report.Add(absl::StrCat("attention_ms_", rows, "_", keys), "  attention", t.attention * 1e3, "ms");
      report.Add("", "  output projection", t.logits * 1e3, "ms");
      report.Add("", "  tokens", rows / t.total, "tokens/s");
    }
  }
  return ExitCode(WriteNumbers(report));
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return hga::Run();
}
