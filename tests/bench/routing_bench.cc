// Benchmark `routing`: what one layer's selection for one decoded token costs, and a ring's round trip to another
// process. Summaries are of random keys, which cost what real ones cost.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/helpers.h"
#include "common/base/machine_limits.h"
#include "common/kv/route_fixture.h"
#include "common/shm/ring.h"
#include "router/index/select.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"

ABSL_FLAG(bool, quick, false, "fewer repetitions, no context of 1M tokens");

namespace hga {
namespace {

using Clock = std::chrono::steady_clock;

// Of gpu_worker's --summary_method.
constexpr char kDefaultMethod[] = "dealt";

// 4 KV heads of 8 query heads, head_dim 128: Qwen3-30B-A3B. Two layers, so that one is not always in the cache.
KvGeometry Shape() {
  KvGeometry g;
  g.layers = 2;
  g.kv_heads = 4;
  g.query_heads = 32;
  g.head_dim = 128;
  return g;
}

template <typename Work>
std::vector<double> Microseconds(int runs, Work work) {
  std::vector<double> us;
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    work();
    us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  return us;
}

// A sequence of `tokens` tokens; chunks repeat after 64.
std::unique_ptr<SequenceIndex> MakeIndex(const char* method, uint32_t tokens) {
  const KvGeometry g = Shape();
  const SummaryMethod* m = *FindSummaryMethod(method, g, MadeUpEnergies(g));
  auto index = std::make_unique<SequenceIndex>(g, m);
  std::vector<std::string> data;
  for (uint32_t i = 0; i < 64; ++i) data.push_back(SummaryData(g, *m, i));
  const auto hashes = MadeUpChunks(tokens / g.chunk_tokens);
  for (uint32_t i = 0; i < hashes.size(); ++i) HGA_CHECK(index->Append(i, hashes[i], data[i % 64]).ok());
  return index;
}

// Median milliseconds of one layer's Select for one token, asked as the worker does by default: the KV heads share the
// budget, beside what is attended anyway, and keys below the least share are left.
double SelectMs(const SequenceIndex& index, const SelectOptions& options, int runs, uint32_t seed,
                Helpers* helpers = nullptr) {
  const uint32_t tokens = index.chunks() * index.geometry().chunk_tokens;
  const uint32_t budget = std::min(tokens / 10, 2048u);
  MadeUpQueries q(index.geometry(), 1, 16, index.chunks(), budget, seed);
  q.Share(index.geometry(), 0.01f / static_cast<float>(budget), 1, seed);
  SelectScratch scratch;
  std::vector<HeadSelection> heads(index.geometry().kv_heads);
  uint32_t layer = 0;
  auto us = Microseconds(
      runs, [&] { Select(index, layer++ % 2, q.block, options, &scratch, heads.data(), nullptr, helpers); });
  return Quantile(&us, 0.5) / 1000;
}

// What a user may choose who prefers speed, to see what that gains: 1,024 was the default until decision 41.
constexpr uint32_t kFewerChunks[] = {1024, 512, 256, 128};

std::string LengthName(uint32_t tokens) {
  return tokens >= 1u << 20 ? absl::StrCat(tokens >> 20, "m") : absl::StrCat(tokens >> 10, "k");
}

void BenchLengths(bool quick, double bandwidth_gbps, Report* report) {
  const KvGeometry g = Shape();
  std::vector<uint32_t> lengths = {8u << 10, 16u << 10, 64u << 10};
  if (!quick) lengths.insert(lengths.end(), {256u << 10, 1u << 20});
  for (uint32_t tokens : lengths) {
    const std::string name = LengthName(tokens);
    for (const char* method : {kDefaultMethod, "cuboid", "mean"}) {
      const auto index = MakeIndex(method, tokens);
      const double ms = SelectMs(*index, {}, quick ? 30 : 200, 1);
      const bool standard = std::strcmp(method, kDefaultMethod) == 0;
      report->Add(standard ? absl::StrCat("select_", name, "_ms") : absl::StrCat("select_", name, "_", method, "_ms"),
                  absl::StrCat("Select, ", name, " tokens, ", method), ms, "ms");
      if (!standard) continue;
      report->Add(absl::StrCat("select_", name, "_scan_all_ms"), absl::StrCat("the same, every chunk scanned"),
                  SelectMs(*index, {4, kMaxSequenceChunks}, quick ? 10 : 50, 1), "ms");
      for (const uint32_t chunks : kFewerChunks) {
        if (chunks >= index->chunks()) continue;
        report->Add(absl::StrCat("select_", name, "_scan_", chunks, "_ms"),
                    absl::StrCat("the same, ", chunks, " of ", index->chunks(), " chunks scanned"),
                    SelectMs(*index, {4, chunks}, quick ? 10 : 50, 1), "ms");
      }
      const SummaryMethod& m = index->method();
      report->Add(absl::StrCat("index_", name, "_bytes_per_token"), "index memory per token and layer",
                  static_cast<double>(index->bytes()) / tokens / g.layers, "B");
      if (tokens != 64u << 10) continue;
      const uint32_t kept = std::max(SelectOptions().scan_chunks, 2048u * SelectOptions().overprovision / 64);
      const uint32_t scanned = std::min(kept, index->chunks());
      const size_t ranked = m.coarse_bytes(g) + m.extents_bytes();
      const double bytes = g.kv_heads * static_cast<double>(index->chunks() * ranked + scanned * m.fine_bytes(g));
      report->Add("select_bandwidth_ratio", "summary bytes read per second over the machine's read bandwidth",
                  bytes / (ms * 1e-3) / (bandwidth_gbps * 1e9), "");
    }
  }
}

// Selections per second of several threads, each with its own queries, over those of one.
void BenchThreads(bool quick, Report* report) {
  const auto index = MakeIndex(kDefaultMethod, 64u << 10);
  const int runs = quick ? 30 : 200;
  double one = 0;
  for (unsigned threads = 1; threads <= std::thread::hardware_concurrency(); threads *= 2) {
    std::vector<std::thread> workers;
    const auto start = Clock::now();
    for (unsigned i = 0; i < threads; ++i) workers.emplace_back([&, i] { SelectMs(*index, {}, runs, i + 1); });
    for (std::thread& worker : workers) worker.join();
    const double rate = threads * runs / std::chrono::duration<double>(Clock::now() - start).count();
    if (threads == 1) one = rate;
    report->Add(absl::StrCat("select_64k_threads_", threads),
                absl::StrCat("selections per second, ", threads, " threads"), rate, "/s");
    report->Add(absl::StrCat("select_64k_scaling_", threads), "over one thread's", rate / one, "");
  }
}

// One selection whose KV heads all cores share, as in a decode step.
void BenchHelpers(bool quick, Report* report) {
  const auto index = MakeIndex(kDefaultMethod, 64u << 10);
  Helpers helpers(std::thread::hardware_concurrency());
  report->Add("select_64k_all_cores_ms", "Select, 64k tokens, its KV heads shared by all cores",
              SelectMs(*index, {}, quick ? 30 : 200, 1, &helpers), "ms");
}

// 8 KB up, 4 KB down, as one decode step's layer, between two processes.
void BenchRing(int spin_us, const std::string& key, const std::string& what, Report* report) {
  constexpr uint64_t kSlotBytes = 1 << 16;
  char folder[] = "/dev/shm/hga_bench.XXXXXX";
  HGA_CHECK(mkdtemp(folder) != nullptr);
  const std::string path = absl::StrCat(folder, "/ring");
  auto router = ServerRing::Create(path, kSlotBytes, spin_us);
  HGA_CHECK(router.ok());
  const pid_t child = fork();
  HGA_CHECK(child >= 0);
  if (child == 0) {
    while (router->WaitPosted(absl::Seconds(10)).ok()) {
      router->Answer([](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
              std::memset(slot.data(), 1, 4096);
              return 4096;
            }).IgnoreError();
    }
    _exit(0);
  }
  auto worker = ClientRing::Open(path, kSlotBytes, spin_us);
  HGA_CHECK(worker.ok());
  auto us = Microseconds(5000, [&] {
    const absl::Status posted = worker->Post([](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
      std::memset(slot.data(), 2, 8192);
      return 8192;
    });
    HGA_CHECK(posted.ok());
    HGA_CHECK(worker->Wait(absl::Seconds(10), [](absl::Span<const uint8_t>) { return absl::OkStatus(); }).ok());
  });
  worker->Close();
  waitpid(child, nullptr, 0);
  std::filesystem::remove_all(folder);
  report->Add(absl::StrCat(key, "_p50_us"), absl::StrCat(what, ", median"), Quantile(&us, 0.5), "us");
  report->Add(absl::StrCat(key, "_p99_us"), absl::StrCat(what, ", 99th percentile"), Quantile(&us, 0.99), "us");
}

int Run() {
  const bool quick = absl::GetFlag(FLAGS_quick);
  std::printf("routing: %s; 4 KV heads of 8 query heads, head_dim 128, one thread\n", MachineName().c_str());
  Report report;
  // Before there are threads: a child process has only the one that forked.
  BenchRing(100, "ring", "ring exchange, both sides poll", &report);
  BenchRing(0, "ring_sleep", "ring exchange, both sides sleep", &report);
  const double bandwidth = MeasureReadBandwidth();
  report.Add("read_bandwidth_gbps", "machine: memory read bandwidth, all cores", bandwidth, "GB/s");
  BenchLengths(quick, bandwidth, &report);
  BenchThreads(quick, &report);
  BenchHelpers(quick, &report);
  return ExitCode(WriteNumbers(report));
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return hga::Run();
}
