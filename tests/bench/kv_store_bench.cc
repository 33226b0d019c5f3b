// Benchmark `kv_store`: latency of whole chunks of SmolLM2's shape (30 blocks of 48 KiB), over a Unix socket with the
// store in the same process, real RocksDB behind it.
#include <chrono>
#include <cstring>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"
#include "tests/bench/report.h"

ABSL_FLAG(std::string, json, "", "file for the numbers");
ABSL_FLAG(std::string, commit, "", "commit that is measured");
ABSL_FLAG(std::string, command, "", "command that was given");
ABSL_FLAG(bool, quick, false, "fewer chunks");

namespace hga {
namespace {

// Samples of one operation.
class Stopwatch {
 public:
  template <typename F>
  auto Time(F&& work) {
    const auto start = std::chrono::steady_clock::now();
    auto result = work();
    us_.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    return result;
  }
  void Print(const std::string& key, const std::string& what, Report* report) {
    report->Add(key + "_p50_us", what + ", p50", Quantile(&us_, 0.5), "us");
    report->Add(key + "_p99_us", what + ", p99", Quantile(&us_, 0.99), "us");
  }

 private:
  std::vector<double> us_;
};

class KvStoreBench {
 public:
  explicit KvStoreBench(uint32_t chunks) {
    g_.layers = 30;
    g_.query_heads = 9;
    g_.kv_heads = 3;
    g_.head_dim = 64;
    HGA_CHECK(daemon_.Start(uint64_t{1} << 30).ok());
    client_ = *GrpcKvClient::Attach({daemon_.address(), "bench", g_});
    tokens_.assign(size_t{chunks} * g_.chunk_tokens, 1);
    hashes_ = ChunkHashes(model_, g_, tokens_);
  }

  void Write(Report* report) {
    const OpenedSession session = *client_->OpenSession("bench", model_, {});
    Stopwatch reserve, commit;
    for (size_t i = 0; i < hashes_.size(); ++i) {
      auto blocks = reserve.Time([&] { return client_->Reserve(g_.layers); });
      HGA_CHECK(blocks.ok());
      for (HeldBlock& block : *blocks) std::memset(block.data(), static_cast<int>(i), g_.block_bytes());
      CommitChunk chunk{hashes_[i],
                        i == 0 ? SeedHash(model_, g_) : hashes_[i - 1],
                        std::vector<uint32_t>(g_.chunk_tokens, 1),
                        *std::move(blocks),
                        "mean",
                        std::string(g_.layers * g_.kv_heads * 5 * g_.head_dim * 2, 's')};
      HGA_CHECK(commit.Time([&] { return client_->Commit(session, std::move(chunk)); }).ok());
    }
    reserve.Print("reserve", "Reserve of 30 slots", report);
    commit.Print("commit", "Commit of a chunk (checksums included)", report);
    HGA_CHECK(client_->UpdateSession(session, hashes_, {}).ok());
  }

  void Read(const std::string& key, const std::string& what, bool from_disk, Report* report) {
    HGA_CHECK(client_->Flush(/*drop_ram=*/from_disk).ok());
    Stopwatch fetch;
    for (const ChunkHash& hash : hashes_) {
      std::vector<BlockName> names;
      for (uint32_t layer = 0; layer < g_.layers; ++layer) names.push_back({hash, layer});
      const auto got = fetch.Time([&] { return client_->Fetch(names); });
      HGA_CHECK(got.ok() && got->back().status.ok());
    }
    fetch.Print(key, what, report);
  }

 private:
  KvGeometry g_;
  TestingDaemon daemon_;
  std::unique_ptr<GrpcKvClient> client_;
  const ModelFingerprint model_ = HashBytes("bench");
  std::vector<uint32_t> tokens_;
  std::vector<ChunkHash> hashes_;
};

int Run() {
  std::printf("kv_store: %s\n", MachineName().c_str());
  Report report;
  report.Add("read_bandwidth_gbps", "machine: memory read bandwidth, all cores", MeasureReadBandwidth(), "GB/s");
  KvStoreBench bench(absl::GetFlag(FLAGS_quick) ? 100 : 300);
  bench.Write(&report);
  bench.Read("fetch_ram", "Fetch of 30 blocks from RAM", false, &report);
  bench.Read("fetch_disk", "Fetch of 30 blocks (1.4 MiB) from disk", true, &report);
  const std::string json = absl::GetFlag(FLAGS_json);
  if (json.empty()) return 0;
  const absl::Status status = report.WriteJson(json, absl::GetFlag(FLAGS_commit), absl::GetFlag(FLAGS_command));
  if (!status.ok()) std::fprintf(stderr, "kv_store_bench: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return hga::Run();
}
