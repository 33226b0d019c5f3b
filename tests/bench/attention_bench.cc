// Benchmark `attention`: a layer's attention over selected keys that lie scattered over a long history, as the cpu
// backend does it, of one token in decode and of a prompt's batch, on small and on huge pages. Shape of Qwen3-0.6B; K/V
// is far larger than any cache.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/machine_limits.h"
#include "common/base/prefetch.h"
#include "common/kv/random_block.h"
#include "gpu_worker/backend/cpu/attention.h"
#include "gpu_worker/engine/attend_plan.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"

ABSL_FLAG(bool, quick, false, "fewer repetitions");
ABSL_FLAG(int, threads, 0, "threads; 0: one per core");

namespace hga {
namespace {

constexpr uint32_t kLayers = 4;
constexpr uint32_t kMostTokens = 64u << 10;
// Rows of a prompt that share what they select, and how many of such blocks a batch has.
constexpr uint32_t kBlockRows = 32, kBlocks = 8;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

KvGeometry Shape(KvDtype dtype) {
  KvGeometry g;
  g.layers = kLayers;
  g.kv_heads = 8;
  g.query_heads = 16;
  g.head_dim = 128;
  g.dtype = dtype;
  return g;
}

// Of the names of numbers.
std::string Suffix(const KvGeometry& g, bool huge) {
  return absl::StrCat(huge ? "_huge" : "", g.dtype == KvDtype::kInt8 ? "_int8" : "");
}

// K/V of all layers, in the blocks of an arena, on pages of one kind.
class History {
 public:
  History(const KvGeometry& g, bool huge) : g_(g) {
    constexpr size_t kHugePage = size_t{2} << 20;
    const size_t bytes = size_t{kMostTokens} / g.chunk_tokens * kLayers * g.block_bytes();
    data_.reset(static_cast<uint8_t*>(std::aligned_alloc(kHugePage, (bytes + kHugePage - 1) / kHugePage * kHugePage)));
    HGA_CHECK(data_ != nullptr);
    ::madvise(data_.get(), bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    std::mt19937 random(1);
    std::vector<uint8_t> block(g.block_bytes());
    FillRandomBlock(g, &random, block.data());
    for (size_t at = 0; at < bytes; at += g.block_bytes()) std::memcpy(data_.get() + at, block.data(), g.block_bytes());
  }

  const void* Block(uint32_t chunk, uint32_t layer) const {
    return data_.get() + (size_t{chunk} * kLayers + layer) * g_.block_bytes();
  }

 private:
  struct Free {
    void operator()(uint8_t* data) const { std::free(data); }
  };
  const KvGeometry g_;
  std::unique_ptr<uint8_t, Free> data_;
};

// `keys` keys of each KV head, drawn from `tokens`.
std::vector<HeadSelection> Draw(const KvGeometry& g, uint32_t tokens, uint32_t keys, std::mt19937* random) {
  std::vector<HeadSelection> selection(g.kv_heads);
  for (HeadSelection& head : selection) {
    std::map<uint32_t, uint64_t> masks;
    for (uint32_t taken = 0; taken < keys;) {
      const uint32_t token = (*random)() % tokens;
      uint64_t& mask = masks[token / g.chunk_tokens];
      const uint64_t bit = uint64_t{1} << token % g.chunk_tokens;
      taken += (mask & bit) == 0;
      mask |= bit;
    }
    for (const auto& [chunk, mask] : masks) head.push_back({chunk, 0, mask});
  }
  return selection;
}

template <typename Use>
void ForEachLine(const KvGeometry& g, const KvRun& run, const Use& use) {
  const size_t bytes = run.tokens * g.row_bytes();
  const auto go = [&](const void* from) {
    for (size_t at = 0; at < bytes; at += kCacheLine) use(static_cast<const uint8_t*>(from) + at);
  };
  go(run.k);  // of int8 the values lie among the keys
  if (g.dtype == KvDtype::kBf16) go(run.v);
}

// A loop that does nothing but read the rows of the plan's runs, as fast as it can: what memory gives for them. It asks
// for a line of each of some runs by turns: of lines that follow each other the hardware would fetch more, for nothing.
double ReadSeconds(const KvGeometry& g, const AttendPlan& plan, Workers* workers) {
  constexpr size_t kTogether = 4, kAhead = 16;
  std::vector<float> sums(workers->threads() * 16);
  const double start = Now();
  workers->Run(g.kv_heads, [&](uint32_t head, uint32_t thread) {
    const std::vector<KvRun>& runs = plan.blocks[0].runs[head];
    float sum = 0;
    for (size_t i = 0; i + kTogether <= runs.size(); i += kTogether) {
      const KvRun* const next = &runs[std::min(i + kAhead, runs.size() - kTogether)];
      for (size_t at = 0; at < g.row_bytes(); at += kCacheLine) {
        for (size_t r = 0; r < kTogether; ++r) PrefetchToL2(static_cast<const uint8_t*>(next[r].k) + at);
        for (size_t r = 0; r < kTogether && g.dtype == KvDtype::kBf16; ++r) {
          PrefetchToL2(static_cast<const uint8_t*>(next[r].v) + at);
        }
      }
      for (size_t r = 0; r < kTogether; ++r) {
        ForEachLine(g, runs[i + r], [&](const uint8_t* line) { sum += static_cast<float>(*line); });
      }
    }
    sums[thread * 16] += sum;
  });
  return Now() - start;
}

void Measure(const KvGeometry& g, bool huge, Workers* workers, Report* report) {
  const History history(g, huge);
  AttendShape shape;
  shape.geometry = g;
  CpuAttention attention(g, 1, workers);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> q(size_t{g.query_heads} * g.head_dim);
  for (float& x : q) x = normal(random);
  const uint32_t position = kMostTokens;
  const int repetitions = absl::GetFlag(FLAGS_quick) ? 12 : 60;
  for (const auto& [tokens, keys] : {std::pair{16u << 10, 411u}, {64u << 10, 1886u}}) {
    std::vector<double> plan_ms, attend_ms, read_ms;
    AttendPlan plan;  // kept, as the engine keeps it
    plan.blocks.resize(1);
    for (int i = 0; i < repetitions; ++i) {
      const uint32_t layer = i % kLayers;
      const auto selection = Draw(g, tokens, keys, &random);
      workers->BeginStep(false);
      attention.Begin(q.data(), &position, 1);
      const double start = Now();
      PlanRouted(shape, 0, 1, selection, [&](uint32_t chunk) { return history.Block(chunk, layer); }, &plan.blocks[0]);
      const double planned = Now();
      attention.Attend(plan);
      const double attended = Now();
      plan_ms.push_back(1e3 * (planned - start));
      attend_ms.push_back(1e3 * (attended - planned));
      const auto other = Draw(g, tokens, keys, &random);
      PlanRouted(shape, 0, 1, other, [&](uint32_t chunk) { return history.Block(chunk, layer); }, &plan.blocks[0]);
      read_ms.push_back(1e3 * ReadSeconds(g, plan, workers));
    }
    const std::string name = absl::StrCat(tokens >> 10, "k", Suffix(g, huge));
    const double mb = 1e-6 * keys * g.kv_heads * (g.head_dim * 2 * g.element_bytes() + g.scale_bytes());
    const double attend = Quantile(&attend_ms, 0.5), read = Quantile(&read_ms, 0.5);
    report->Add(absl::StrCat("attend_", name, "_ms"),
                absl::StrCat(keys, " of ", tokens, " keys, ", KvDtypeName(g.dtype), huge ? ", huge" : ", small",
                             " pages: attention"), attend,
                "ms");
    report->Add(absl::StrCat("attend_", name, "_gbps"), "  of scattered rows", mb / attend, "GB/s");
    report->Add(absl::StrCat("read_", name, "_ms"), "  a loop that only reads such rows", read, "ms");
    report->Add(absl::StrCat("plan_", name, "_ms"), "  listing the runs", Quantile(&plan_ms, 0.5), "ms");
  }
}

// A prompt's batch, the first key of whose selection is seen by each block's first row, and so on.
void MeasurePrompt(const KvGeometry& g, bool huge, Workers* workers, Report* report) {
  const History history(g, huge);
  AttendShape shape;
  shape.geometry = g;
  constexpr uint32_t kRows = kBlockRows * kBlocks, kTokens = 16u << 10, kKeys = 423;
  CpuAttention attention(g, kRows, workers);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> q(size_t{kRows} * g.query_heads * g.head_dim);
  for (float& x : q) x = normal(random);
  std::vector<uint32_t> positions(kRows);
  for (uint32_t r = 0; r < kRows; ++r) positions[r] = kTokens + r;
  std::vector<double> attend_ms;
  AttendPlan plan;
  plan.blocks.resize(kBlocks);
  double flop = 0;
  for (int i = 0; i < (absl::GetFlag(FLAGS_quick) ? 12 : 40); ++i) {
    flop = 0;
    for (uint32_t b = 0; b < kBlocks; ++b) {
      auto selection = Draw(g, kTokens, kKeys, &random);
      for (HeadSelection& head : selection) {
        for (SelectedChunk& chunk : head) chunk.first_token = random() % 2 == 0 ? 0 : random() % kBlockRows;
      }
      flop += 4.0 * static_cast<double>(SelectedKeys(kBlockRows, selection)) * g.queries_per_kv_head() * g.head_dim;
      PlanRouted(shape, b * kBlockRows, kBlockRows, selection,
                 [&](uint32_t chunk) { return history.Block(chunk, i % kLayers); }, &plan.blocks[b]);
    }
    workers->BeginStep(false);
    attention.Begin(q.data(), positions.data(), kRows);
    const double start = Now();
    attention.Attend(plan);
    attend_ms.push_back(1e3 * (Now() - start));
  }
  const double ms = Quantile(&attend_ms, 0.5);
  const std::string name = absl::StrCat("attend_prompt", Suffix(g, huge));
  report->Add(name + "_ms", absl::StrCat(kRows, " rows, ", kKeys, " of ", kTokens, " keys for each ", kBlockRows, ", ",
                                         KvDtypeName(g.dtype), huge ? ", huge" : ", small", " pages"), ms, "ms");
  report->Add(name + "_gflops", "  of the products that are needed", 1e-6 * flop / ms, "GFLOP/s");
}

int Run() {
  const int threads = absl::GetFlag(FLAGS_threads);
  Workers workers(threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency()));
  std::printf("attention: %s, %u threads\n", MachineName().c_str(), workers.threads());
  Report report;
  report.Add("read_bandwidth_gbps", "machine: memory read bandwidth, all cores", MeasureReadBandwidth(), "GB/s");
  for (const bool huge : {false, true}) {
    for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kInt8}) {
      Measure(Shape(dtype), huge, &workers, &report);
      MeasurePrompt(Shape(dtype), huge, &workers, &report);
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
