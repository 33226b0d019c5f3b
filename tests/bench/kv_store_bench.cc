// Benchmark `kv_store`: the store beside the machine's own limits. Whole chunks of SmolLM2's shape (30 blocks of 48
// KiB) over a Unix socket and the ring beside it, the arena read in place by a second process, and the disk
// (kv_store_disk.h).
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/base/check.h"
#include "common/base/machine_limits.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"
#include "tests/bench/kv_store_disk.h"
#include "tests/bench/kv_store_packed.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"

ABSL_FLAG(std::string, reader_of, "", "internal: this is the second process, a client of that store");
ABSL_FLAG(bool, quick, false, "fewer chunks");
ABSL_FLAG(std::string, part, "", "only this part: ram, packed, disk or index");

namespace hga {
namespace {

// Takes a row of the report, here or in the other process.
using AddRow =
    std::function<void(const std::string& key, const std::string& what, double value, const std::string& unit)>;

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
  void Print(const std::string& key, const std::string& what, const AddRow& add) {
    add(key + "_p50_us", what + ", p50", Quantile(&us_, 0.5), "us");
    add(key + "_p99_us", what + ", p99", Quantile(&us_, 0.99), "us");
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

// Each chunk's blocks in one call.
void TimeFetch(const std::string& key, const std::string& what, GrpcKvClient* client, absl::Duration pause,
               const AddRow& add) {
  const KvGeometry g = SmolLm2Geometry();
  Stopwatch fetch;
  for (const ChunkHash& hash : Hashes(g)) {
    std::vector<BlockName> names;
    for (uint32_t layer = 0; layer < g.layers; ++layer) names.push_back({hash, layer});
    absl::SleepFor(pause);
    const auto got = fetch.Time([&] { return client->Fetch(names); });
    HGA_CHECK(got.ok() && got->back().status.ok());
  }
  fetch.Print(key, what, add);
}

class KvStoreBench {
 public:
  KvStoreBench() : g_(SmolLm2Geometry()), hashes_(Hashes(g_)) {
    HGA_CHECK(daemon_.Start(uint64_t{1} << 30).ok());
    client_ = *GrpcKvClient::Attach({daemon_.address(), "bench", g_});
  }

  void Write(const AddRow& add) {
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
    reserve.Print("reserve", "Reserve of 30 slots", add);
    commit.Print("commit", "Commit of a chunk (checksums included)", add);
    HGA_CHECK(client_->UpdateSession(session, hashes_, {}).ok());
  }

  void FetchFromDisk(const AddRow& add) {
    HGA_CHECK(client_->Flush(/*drop_ram=*/true).ok());
    TimeFetch("fetch_disk", "Fetch of 30 blocks (1.4 MiB) from disk", client_.get(), absl::ZeroDuration(), add);
  }

  // What a process of its own fetches and reads in place: RunReader.
  void ReadFromAnotherProcess(const AddRow& add) {
    HGA_CHECK(client_->Flush(/*drop_ram=*/false).ok());
    char self[4096] = {};
    HGA_CHECK(::readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
    const std::string command = absl::StrCat(self, " --reader_of=", daemon_.address(),
                                             absl::GetFlag(FLAGS_quick) ? " --quick" : "");
    FILE* child = ::popen(command.c_str(), "r");
    HGA_CHECK(child != nullptr);
    char line[512];
    while (std::fgets(line, sizeof(line), child) != nullptr) {
      const std::vector<std::string> row = absl::StrSplit(absl::StripSuffix(line, "\n"), '\t');
      HGA_CHECK(row.size() == 4);
      add(row[0], row[1], std::atof(row[2].c_str()), row[3]);
    }
    HGA_CHECK(::pclose(child) == 0);
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

// Holds all blocks, reads them and as much private memory in turns.
void ReadInPlace(GrpcKvClient* client, const AddRow& add) {
  const KvGeometry g = SmolLm2Geometry();
  std::vector<BlockName> names;
  for (const ChunkHash& hash : Hashes(g)) {
    for (uint32_t layer = 0; layer < g.layers; ++layer) names.push_back({hash, layer});
  }
  const auto held = client->Fetch(names);
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
  const uint64_t messages = client->rpc_count();
  std::vector<double> plain_rate, arena_rate, ratio;
  for (int pass = 0; pass < 9; ++pass) {
    plain_rate.push_back(ReadBlocks(plain, words));
    arena_rate.push_back(ReadBlocks(arena, words));
    ratio.push_back(arena_rate.back() / plain_rate.back());
  }
  add("ram_plain_gbps", "machine: as many bytes of private memory, all cores", Quantile(&plain_rate, 0.5), "GB/s");
  add("ram_read_gbps", "RAM hit, read in place by a second process", Quantile(&arena_rate, 0.5), "GB/s");
  add("ram_read_ratio", "  of private memory (aim 0.8)", Quantile(&ratio, 0.5), "");
  add("messages_when_held", "messages while held blocks are read (aim 0)",
      static_cast<double>(client->rpc_count() - messages), "");
}

// The second process. One fetch after the other, as when a sequence comes back; then with pauses in which both sides
// fall asleep, as between the layers of a step; then without the ring.
int RunReader() {
  const AddRow add = [](const std::string& key, const std::string& what, double value, const std::string& unit) {
    std::printf("%s\t%s\t%.9g\t%s\n", key.c_str(), what.c_str(), value, unit.c_str());
  };
  GrpcKvClientOptions options{absl::GetFlag(FLAGS_reader_of), "reader", SmolLm2Geometry()};
  const auto client = GrpcKvClient::Attach(options);
  HGA_CHECK(client.ok());
  TimeFetch("fetch_ram", "Fetch of 30 blocks from RAM (aim: p50 under 100)", client->get(), absl::ZeroDuration(), add);
  TimeFetch("fetch_ram_asleep", "  after a pause of 1 ms", client->get(), absl::Milliseconds(1), add);
  options.fetch_ring = false;
  const auto by_grpc = GrpcKvClient::Attach(options);
  HGA_CHECK(by_grpc.ok());
  TimeFetch("fetch_ram_grpc", "  by gRPC", by_grpc->get(), absl::ZeroDuration(), add);
  Stopwatch empty;  // what any call costs here
  for (int i = 0; i < 300; ++i) HGA_CHECK(empty.Time([&] { return (*client)->GetStats(); }).ok());
  empty.Print("rpc", "  machine: a call that does nothing", add);
  ReadInPlace(client->get(), add);
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
    const AddRow add = [&](const std::string& key, const std::string& what, double value, const std::string& unit) {
      report.Add(key, what, value, unit);
    };
    bench.Write(add);
    bench.ReadFromAnotherProcess(add);
    bench.FetchFromDisk(add);
  }
  if (wanted("packed")) BenchPacked(absl::GetFlag(FLAGS_quick), &report);
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
