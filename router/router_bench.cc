// What routing costs: one layer's selection for one token, and a ring's round trip. Prints one JSON object.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "common/base/check.h"
#include "common/shm/ring.h"
#include "router/index/index_fixture.h"
#include "router/index/select.h"

namespace hga {
namespace {

using Clock = std::chrono::steady_clock;

struct Percentiles {
  double p50_us, p99_us;
};

template <typename Work>
Percentiles Measure(int runs, Work work) {
  std::vector<double> us;
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    work();
    us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  std::sort(us.begin(), us.end());
  return {us[us.size() / 2], us[us.size() * 99 / 100]};
}

void BenchSelect(const std::string& method, uint32_t tokens) {
  KvGeometry g;
  g.layers = 2;
  g.query_heads = 32;
  g.kv_heads = 8;
  g.head_dim = 128;
  const SummaryMethod* m = *FindSummaryMethod(method);
  SequenceIndex index(g, m);
  const uint32_t chunks = tokens / g.chunk_tokens;
  const auto hashes = MadeUpChunks(chunks);
  for (uint32_t i = 0; i < chunks; ++i) {
    HGA_CHECK(index.Append(i, hashes[i], SummaryData(g, *m, i)).ok());
  }
  const QueryBlock q(g, 1, 0, chunks, tokens * 3 / 100, 1);
  SelectScratch scratch;
  std::vector<HeadSelection> heads(g.kv_heads);
  uint32_t layer = 0;
  const Percentiles p = Measure(300, [&] { Select(index, layer++ % 2, q.block, {}, &scratch, heads.data()); });
  std::printf("  \"select_%s_%uk\": {\"p50_us\": %.1f, \"p99_us\": %.1f},\n", method.c_str(), tokens / 1024, p.p50_us,
              p.p99_us);
}

// 8 KB up, 4 KB down, as one decode step's layer.
void BenchRing(int spin_us, const char* end) {
  char folder[] = "/tmp/hga.XXXXXX";
  HGA_CHECK(mkdtemp(folder) != nullptr);
  const std::string path = std::string(folder) + "/ring";
  auto router = RouterRing::Create(path, 1 << 16, spin_us);
  auto worker = WorkerRing::Open(path, 1 << 16, spin_us);
  HGA_CHECK(router.ok() && worker.ok());
  std::thread answering([&] {
    while (router->WaitPosted(absl::InfiniteDuration()).ok()) {
      router->Answer([](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
              std::memset(slot.data(), 1, 4096);
              return 4096;
            }).IgnoreError();
    }
  });
  const Percentiles p = Measure(5000, [&] {
    const absl::Status posted = worker->Post([](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
      std::memset(slot.data(), 2, 8192);
      return 8192;
    });
    HGA_CHECK(posted.ok());
    HGA_CHECK(worker->Wait(absl::Seconds(10), [](absl::Span<const uint8_t>) { return absl::OkStatus(); }).ok());
  });
  worker->Close();
  answering.join();
  std::filesystem::remove_all(folder);
  std::printf("  \"ring_spin_%dus\": {\"p50_us\": %.2f, \"p99_us\": %.2f}%s\n", spin_us, p.p50_us, p.p99_us, end);
}

}  // namespace
}  // namespace hga

int main() {
  std::printf("{\n");
  for (const char* method : {"mean", "cuboid", "sketch"}) {
    for (uint32_t tokens : {8u << 10, 64u << 10}) hga::BenchSelect(method, tokens);
  }
  hga::BenchRing(0, ",");
  hga::BenchRing(50, "");
  std::printf("}\n");
}
