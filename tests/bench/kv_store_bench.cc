// Benchmark `kv_store`: the store beside the machine's own limits. Whole chunks of SmolLM2's shape (30 blocks of 48 KiB)
// over a Unix socket, the arena read in place by a second process, and the disk (kv_store_disk.h).
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"
#include "tests/bench/kv_store_disk.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"

ABSL_FLAG(std::string, reader_of, "", "internal: this is the second process, which reads the arena of that store");
ABSL_FLAG(bool, quick, false, "fewer chunks");
ABSL_FLAG(std::string, part, "", "only this part: ram, disk or index");

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

const ModelFingerprint& Model() {
  static const ModelFingerprint model = HashBytes("bench");
  return model;
}

KvGeometry SmolLm2Geometry() {
  KvGeometry g;
  g.layers = 30;
  g.query_heads = 9;
  g.kv_heads = 3;
  g.head_dim = 64;
  return g;
}

uint32_t Chunks() { return absl::GetFlag(FLAGS_quick) ? 100 : 300; }

std::vector<ChunkHash> Hashes(const KvGeometry& g) {
  return ChunkHashes(Model(), g, std::vector<uint32_t>(size_t{Chunks()} * g.chunk_tokens, 1));
}

class KvStoreBench {
 public:
  KvStoreBench() : g_(SmolLm2Geometry()), hashes_(Hashes(g_)) {
    HGA_CHECK(daemon_.Start(uint64_t{1} << 30).ok());
    client_ = *GrpcKvClient::Attach({daemon_.address(), "bench", g_});
  }

  void Write(Report* report) {
    const OpenedSession session = *client_->OpenSession("bench", Model(), {});
    Stopwatch reserve, commit;
    for (size_t i = 0; i < hashes_.size(); ++i) {
      auto blocks = reserve.Time([&] { return client_->Reserve(g_.layers); });
      HGA_CHECK(blocks.ok());
      for (HeldBlock& block : *blocks) std::memset(block.data(), static_cast<int>(i), g_.block_bytes());
      CommitChunk chunk{hashes_[i],
                        i == 0 ? SeedHash(Model(), g_) : hashes_[i - 1],
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
    if (from_disk) return;
    Stopwatch empty;  // what any call costs here
    for (int i = 0; i < 300; ++i) HGA_CHECK(empty.Time([&] { return client_->GetStats(); }).ok());
    empty.Print("rpc", "  machine: a call that does nothing", report);
  }

  // All of the arena's blocks, read in place by a process of its own.
  void ReadInPlace(Report* report) {
    char self[4096] = {};
    HGA_CHECK(::readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    const std::string command = absl::StrCat(self, " --reader_of=", daemon_.address(),
                                             absl::GetFlag(FLAGS_quick) ? " --quick" : "");
    FILE* child = ::popen(command.c_str(), "r");
    HGA_CHECK(child != nullptr);
    double plain = 0, arena = 0, ratio = 0, messages = -1;
    const int fields = std::fscanf(child, "%lf %lf %lf %lf", &plain, &arena, &ratio, &messages);
    HGA_CHECK(::pclose(child) == 0 && fields == 4);
    report->Add("ram_plain_gbps", "machine: as many bytes of private memory, all cores", plain, "GB/s");
    report->Add("ram_read_gbps", "RAM hit, read in place by a second process", arena, "GB/s");
    report->Add("ram_read_ratio", "  of private memory (aim 0.8)", ratio, "");
    report->Add("messages_when_held", "messages while held blocks are read (aim 0)", messages, "");
  }

 private:
  const KvGeometry g_;
  const std::vector<ChunkHash> hashes_;
  TestingDaemon daemon_;
  std::unique_ptr<GrpcKvClient> client_;
};

// Reads what `blocks` say, shared among all cores; GB/s.
double ReadBlocks(const std::vector<const uint64_t*>& blocks, size_t words) {
  const unsigned threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<uint64_t> sums(threads);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> readers;
  for (unsigned t = 0; t < threads; ++t) {
    readers.emplace_back([&, t] {
      for (size_t i = t; i < blocks.size(); i += threads) sums[t] += SumWords(blocks[i], words);
    });
  }
  for (std::thread& reader : readers) reader.join();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  HGA_CHECK(sums[0] != 0);
  return static_cast<double>(blocks.size() * words * sizeof(uint64_t)) / seconds / 1e9;
}

// The second process: attaches, holds all blocks, reads them and as much private memory in turns.
int RunReader() {
  const KvGeometry g = SmolLm2Geometry();
  auto client = GrpcKvClient::Attach({absl::GetFlag(FLAGS_reader_of), "reader", g});
  HGA_CHECK(client.ok());
  std::vector<BlockName> names;
  for (const ChunkHash& hash : Hashes(g)) {
    for (uint32_t layer = 0; layer < g.layers; ++layer) names.push_back({hash, layer});
  }
  const auto held = (*client)->Fetch(names);
  HGA_CHECK(held.ok());
  const size_t words = g.block_bytes() / sizeof(uint64_t);
  const std::vector<uint64_t> memory(names.size() * words, 1);
  std::vector<const uint64_t*> plain, arena;
  for (size_t i = 0; i < names.size(); ++i) {
    HGA_CHECK((*held)[i].status.ok());
    arena.push_back(reinterpret_cast<const uint64_t*>((*held)[i].block.data()));
    plain.push_back(memory.data() + i * words);
  }
  ReadBlocks(arena, words);  // maps the pages
  const uint64_t messages = (*client)->rpc_count();
  std::vector<double> plain_rate, arena_rate, ratio;
  for (int pass = 0; pass < 9; ++pass) {
    plain_rate.push_back(ReadBlocks(plain, words));
    arena_rate.push_back(ReadBlocks(arena, words));
    ratio.push_back(arena_rate.back() / plain_rate.back());
  }
  std::printf("%f %f %f %f\n", Quantile(&plain_rate, 0.5), Quantile(&arena_rate, 0.5), Quantile(&ratio, 0.5),
              static_cast<double>((*client)->rpc_count() - messages));
  return 0;
}

int Run() {
  std::printf("kv_store: %s\n", MachineName().c_str());
  Report report;
  const std::string part = absl::GetFlag(FLAGS_part);
  const auto wanted = [&](const char* name) { return part.empty() || part == name; };
  if (wanted("ram")) {
    report.Add("read_bandwidth_gbps", "machine: memory read bandwidth, all cores", MeasureReadBandwidth(), "GB/s");
    KvStoreBench bench;
    bench.Write(&report);
    bench.Read("fetch_ram", "Fetch of 30 blocks from RAM", false, &report);
    bench.ReadInPlace(&report);
    bench.Read("fetch_disk", "Fetch of 30 blocks (1.4 MiB) from disk", true, &report);
  }
  if (wanted("disk")) BenchDisk(absl::GetFlag(FLAGS_quick), &report);
  if (wanted("index")) BenchIndex(absl::GetFlag(FLAGS_quick), &report);
  return ExitCode(WriteNumbers(report));
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return absl::GetFlag(FLAGS_reader_of).empty() ? hga::Run() : hga::RunReader();
}
