// Latency of Reserve, Commit and Fetch from RAM for whole chunks of SmolLM2's shape, over a Unix socket with
// the store in the same process. --json: one line per operation.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include "common/base/check.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"

namespace hga {
namespace {

constexpr uint32_t kChunks = 300;
constexpr uint32_t kRounds = 5;  // of fetching every chunk

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Report(bool json, const char* operation, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  const double p50 = seconds[seconds.size() / 2] * 1e6, p99 = seconds[seconds.size() * 99 / 100] * 1e6;
  std::printf(json ? "{\"bench\":\"kv_store/%s\",\"samples\":%zu,\"p50_us\":%.1f,\"p99_us\":%.1f}\n"
                   : "%-12s %6zu samples   p50 %8.1f us   p99 %8.1f us\n",
              operation, seconds.size(), p50, p99);
}

int Run(bool json) {
  KvGeometry g;
  g.layers = 30;
  g.query_heads = 9;
  g.kv_heads = 3;
  g.head_dim = 64;
  TestingDaemon daemon;
  HGA_CHECK(daemon.Start(1ull << 30).ok());
  auto client = *GrpcKvClient::Attach({daemon.address(), "bench", g});
  const ModelFingerprint model = HashBytes("bench");
  const std::vector<uint32_t> tokens(kChunks * g.chunk_tokens, 1);
  const std::vector<ChunkHash> hashes = ChunkHashes(model, g, tokens);
  const OpenedSession session = *client->OpenSession("bench", model, {});
  std::vector<double> reserve, commit, fetch;
  for (uint32_t i = 0; i < kChunks; ++i) {
    auto start = std::chrono::steady_clock::now();
    auto blocks = client->Reserve(g.layers);
    reserve.push_back(SecondsSince(start));
    HGA_CHECK(blocks.ok());
    for (HeldBlock& block : *blocks) std::memset(block.data(), static_cast<int>(i), g.block_bytes());
    CommitChunk chunk{hashes[i],
                      i == 0 ? SeedHash(model, g) : hashes[i - 1],
                      std::vector<uint32_t>(g.chunk_tokens, 1),
                      *std::move(blocks),
                      "mean",
                      std::string(g.layers * g.kv_heads * 5 * g.head_dim * 2, 's')};
    start = std::chrono::steady_clock::now();
    HGA_CHECK(client->Commit(session, std::move(chunk)).ok());
    commit.push_back(SecondsSince(start));
  }
  HGA_CHECK(client->Flush(/*drop_ram=*/false).ok());
  for (uint32_t round = 0; round < kRounds; ++round) {
    for (const ChunkHash& hash : hashes) {
      std::vector<BlockName> names;
      for (uint32_t layer = 0; layer < g.layers; ++layer) names.push_back({hash, layer});
      const auto start = std::chrono::steady_clock::now();
      const auto got = client->Fetch(names);
      fetch.push_back(SecondsSince(start));
      HGA_CHECK(got.ok() && got->back().status.ok());
    }
  }
  Report(json, "reserve", reserve);
  Report(json, "commit", commit);
  Report(json, "fetch_ram", fetch);
  return 0;
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) { return hga::Run(argc > 1 && std::strcmp(argv[1], "--json") == 0); }
