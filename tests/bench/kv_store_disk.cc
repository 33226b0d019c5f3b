#include "tests/bench/kv_store_disk.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"
#include "kv_store/store/block_store.h"
#include "kv_store/tier/rocks_tier.h"
#include "tests/bench/disk_limits.h"

namespace hga {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Sessions of chunks written straight to a tier, as the store's write-back does it.
class Writer {
 public:
  Writer(const KvGeometry& geometry, uint32_t chunks_per_session)
      : g_(geometry), chunks_per_session_(chunks_per_session), bytes_(g_.block_bytes()) {
    std::mt19937_64 random(7);
    for (uint8_t& byte : bytes_) byte = static_cast<uint8_t>(random());
    checksum_ = BlockChecksum(bytes_.data(), bytes_.size());
  }

  // Appends whole sessions until `chunks` more are there; each step has at most `step_chunks` of them.
  void Write(KvTier* tier, uint64_t chunks, uint64_t step_chunks) {
    WriteStep step;
    for (uint64_t done = 0; done < chunks; done += chunks_per_session_) {
      const SessionRecord session = MakeSession();
      ChunkHash parent = SeedHash(model_, g_);
      for (const ChunkHash& hash : session.chunks) {
        ChunkRecord record{hash, parent, tokens_, std::vector<uint64_t>(g_.layers, checksum_)};
        step.put_chunks.push_back({std::make_shared<const ChunkRecord>(std::move(record)), summary_,
                                   std::vector<const uint8_t*>(g_.layers, bytes_.data())});
        parent = hash;
        if (step.put_chunks.size() < step_chunks) continue;
        HGA_CHECK(tier->Write(step).ok());
        step = WriteStep();
      }
      step.put_sessions.push_back(session);
    }
    HGA_CHECK(tier->Write(step).ok());
  }

  void DeleteSessions(KvTier* tier, size_t first, size_t last, size_t every) {
    for (size_t i = first; i < last; i += every) {
      WriteStep step;
      step.delete_sessions = {sessions_[i].name};
      step.delete_chunks = sessions_[i].chunks;
      HGA_CHECK(tier->Write(step).ok());
    }
  }

  const std::vector<SessionRecord>& sessions() const { return sessions_; }
  const ModelFingerprint& model() const { return model_; }
  uint64_t chunk_bytes() const { return g_.block_bytes() * g_.layers; }

 private:
  SessionRecord MakeSession() {
    SessionRecord session;
    session.name = absl::StrCat("s", sessions_.size());
    session.model = model_;
    tokens_.assign(g_.chunk_tokens, static_cast<uint32_t>(sessions_.size()));
    ChunkHash hash = SeedHash(model_, g_);
    for (uint32_t c = 0; c < chunks_per_session_; ++c) session.chunks.push_back(hash = NextChunkHash(hash, tokens_));
    sessions_.push_back(session);
    return session;
  }

  const KvGeometry g_;
  const uint32_t chunks_per_session_;
  const ModelFingerprint model_ = HashBytes("bench");
  const std::shared_ptr<const SummaryRecord> summary_ =
      std::make_shared<const SummaryRecord>(SummaryRecord{"mean", "s"});
  std::vector<uint8_t> bytes_;
  uint64_t checksum_ = 0;
  std::vector<uint32_t> tokens_;
  std::vector<SessionRecord> sessions_;
};

std::unique_ptr<KvTier> OpenTier(const std::string& folder, const KvGeometry& geometry) {
  RocksTierOptions options;
  options.data_dir = folder;
  auto tier = OpenRocksTier(options);
  HGA_CHECK(tier.ok());
  HGA_CHECK((*tier)->SetGeometry(geometry).ok());
  return *std::move(tier);
}

// What the tier has written once its garbage collection has come to rest.
TierStats WhenQuiet(KvTier* tier) {
  for (TierStats last = tier->Stats();;) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
    const TierStats now = tier->Stats();
    if (now.written_bytes() == last.written_bytes() && now.disk_bytes == last.disk_bytes) return now;
    last = now;
  }
}

constexpr size_t kBatch = 4;

// One batch of random blocks.
void ReadRandom(KvTier* tier, const KvGeometry& g, const std::vector<SessionRecord>& sessions, std::mt19937_64* random,
                std::vector<uint8_t>* out) {
  out->resize(kBatch * g.block_bytes());
  std::vector<BlockRead> reads(kBatch);
  for (size_t i = 0; i < kBatch; ++i) {
    const auto& chunks = sessions[(*random)() % sessions.size()].chunks;
    reads[i].name = {chunks[(*random)() % chunks.size()], static_cast<uint32_t>((*random)() % g.layers)};
    reads[i].out = out->data() + i * g.block_bytes();
  }
  tier->ReadBlocks(absl::MakeSpan(reads));
  for (const BlockRead& read : reads) HGA_CHECK(read.status.ok());
}

// MB/s of random blocks, `depth` batches under way at once.
double ReadTier(KvTier* tier, const KvGeometry& g, const std::vector<SessionRecord>& sessions, uint64_t bytes,
                uint64_t seed, int depth) {
  const uint64_t batches = bytes / g.block_bytes() / kBatch;
  std::atomic<uint64_t> next{0};
  const auto start = Clock::now();
  std::vector<std::thread> threads;
  for (int t = 0; t < depth; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed * 1000 + t);
      std::vector<uint8_t> out;
      while (next++ < batches) ReadRandom(tier, g, sessions, &random, &out);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return static_cast<double>(batches * kBatch * g.block_bytes()) / Since(start) / 1e6;
}

// One thread's batches until `done`, milliseconds each.
std::vector<double> ReadUntil(KvTier* tier, const KvGeometry& g, const std::vector<SessionRecord>& sessions,
                              const std::function<bool()>& done) {
  std::mt19937_64 random(11);
  std::vector<uint8_t> out;
  std::vector<double> ms;
  while (!done()) {
    const auto start = Clock::now();
    ReadRandom(tier, g, sessions, &random, &out);
    ms.push_back(Since(start) * 1e3);
  }
  return ms;
}

// As `hga store compact` asks for it, beside a reader.
void BenchCompact(KvTier* tier, const KvGeometry& g, const std::vector<SessionRecord>& live, Report* report) {
  const auto begin = Clock::now();
  std::vector<double> alone = ReadUntil(tier, g, live, [&] { return Since(begin) > 5; });
  const uint64_t before = tier->Stats().disk_bytes;
  std::atomic<bool> done{false};
  std::atomic<uint64_t> most{0};
  double seconds = 0;
  std::thread compacting([&] {
    Compaction compaction;
    const auto start = Clock::now();
    HGA_CHECK(tier->Compact(&compaction).ok());
    seconds = Since(start);
    done = true;
  });
  std::thread watching([&] {
    for (; !done; std::this_thread::sleep_for(std::chrono::milliseconds(20))) {
      most = std::max<uint64_t>(most, tier->Stats().disk_bytes);
    }
  });
  std::vector<double> beside = ReadUntil(tier, g, live, [&] { return done.load(); });
  compacting.join();
  watching.join();
  const TierStats after = tier->Stats();
  report->Add("compact_s", absl::StrCat("compaction of a store of ", before / 1000000, " MB while another reads"),
              seconds, "s");
  report->Add("compact_freed_mb", "  room that came back", (static_cast<double>(before) - after.disk_bytes) / 1e6,
              "MB");
  report->Add("compact_extra_mb", "  room taken beside it at most", (static_cast<double>(most) - before) / 1e6, "MB");
  report->Add("alone_read_p50_ms", "  4 blocks read before it, p50", Quantile(&alone, 0.5), "ms");
  report->Add("alone_read_p99_ms", "  p99", Quantile(&alone, 0.99), "ms");
  report->Add("compact_read_p50_ms", "  4 blocks read beside it, p50", Quantile(&beside, 0.5), "ms");
  report->Add("compact_read_p99_ms", "  p99", Quantile(&beside, 0.99), "ms");
  report->Add("compact_read_max_ms", "  the longest", Quantile(&beside, 1), "ms");
}

}  // namespace

void BenchDisk(bool quick, Report* report) {
  KvGeometry g;
  g.layers = 8;
  g.query_heads = g.kv_heads = 4;
  g.head_dim = 128;  // blocks of 128 KiB
  TestingDaemon daemon;
  const std::string folder = daemon.dir() + "/data";
  auto tier = OpenTier(folder, g);
  Writer writer(g, 100);
  const DiskPattern pattern;
  const int rounds = quick ? 3 : 5;
  const uint64_t round_chunks = (quick ? 300 : 2000);
  std::vector<double> raw_write, tier_write, write_ratio;
  double cpu = 0;
  for (int i = 0; i < rounds; ++i) {
    raw_write.push_back(MeasureRawWrite(daemon.dir(), round_chunks * writer.chunk_bytes(), pattern));
    const auto start = Clock::now();
    cpu -= CpuSeconds();
    writer.Write(tier.get(), round_chunks, 64);
    cpu += CpuSeconds();
    tier_write.push_back(static_cast<double>(round_chunks * writer.chunk_bytes()) / Since(start) / 1e6);
    write_ratio.push_back(tier_write.back() / raw_write.back());
  }
  const double live = static_cast<double>(round_chunks * rounds * writer.chunk_bytes());
  const TierStats written = tier->Stats();
  report->Add("raw_write_mbps", "machine: O_DIRECT writes, 128 KiB, depth 16", Quantile(&raw_write, 0.5), "MB/s");
  report->Add("write_back_mbps", "write-back to RocksDB, steps of 64 MiB", Quantile(&tier_write, 0.5), "MB/s");
  report->Add("write_back_ratio", "  of raw writes (aim 0.6)", Quantile(&write_ratio, 0.5), "");
  report->Add("write_back_cpu_s_per_gb", "  seconds of CPU per GB", cpu / live * 1e9, "s");
  report->Add("write_amplification", "bytes written to files per byte of K/V", written.written_bytes() / live, "");
  report->Add("space_amplification", "bytes on disk per byte of K/V", written.disk_bytes / live, "");

  std::vector<double> raw_read, tier_read, read_ratio;
  const uint64_t read_bytes = (quick ? 256ull : 1024ull) << 20;
  double raw_cpu = 0;
  cpu = 0;
  for (int i = 0; i < rounds; ++i) {
    raw_cpu -= CpuSeconds();
    raw_read.push_back(MeasureRawRead(folder, ".blob", read_bytes, i, pattern));
    raw_cpu += CpuSeconds();
    cpu -= CpuSeconds();
    tier_read.push_back(ReadTier(tier.get(), g, writer.sessions(), read_bytes, i, pattern.depth));
    cpu += CpuSeconds();
    read_ratio.push_back(tier_read.back() / raw_read.back());
  }
  report->Add("raw_read_mbps", "machine: O_DIRECT reads of the same files, 128 KiB, depth 16",
              Quantile(&raw_read, 0.5), "MB/s");
  report->Add("disk_read_mbps", "cold blocks of 128 KiB from RocksDB, depth 16", Quantile(&tier_read, 0.5), "MB/s");
  report->Add("disk_read_ratio", "  of raw reads (aim 0.75)", Quantile(&read_ratio, 0.5), "");
  const double read_gb = static_cast<double>(rounds * read_bytes) / 1e9;
  report->Add("disk_read_cpu_s_per_gb", "  seconds of CPU per GB", cpu / read_gb, "s");
  report->Add("raw_read_cpu_s_per_gb", "  of raw reads", raw_cpu / read_gb, "s");
  const TierStats memory = tier->Stats();
  report->Add("rocksdb_memory_mb", "memory of RocksDB", memory.memory_bytes / 1e6, "MB");
  report->Add("", "  its budget", memory.memory_budget_bytes / 1e6, "MB");

  tier.reset();
  std::vector<double> restart;
  for (int i = 0; i < 3; ++i) {
    const auto start = Clock::now();
    HGA_CHECK(daemon.Start(uint64_t{1} << 30).ok());
    auto client = GrpcKvClient::Attach({daemon.address(), "bench", g});
    HGA_CHECK(client.ok());
    const SessionRecord& session = writer.sessions().front();
    const auto opened = (*client)->OpenSession(session.name, writer.model(), session.chunks);
    HGA_CHECK(opened.ok() && opened->matched_chunks == session.chunks.size());
    restart.push_back(Since(start));
    client->reset();
    daemon.Stop(/*flush=*/true);
  }
  report->Add("restart_s", absl::StrCat("restart of a store of ", static_cast<int>(live / 1e9 + 0.5),
                                        " GB until a session is open (aim 2)"), Quantile(&restart, 0.5), "s");

  // Every other session goes, so that each blob file is half dead.
  tier = OpenTier(folder, g);
  const uint64_t before = tier->Stats().written_bytes();
  const size_t deleted_of = writer.sessions().size();
  writer.DeleteSessions(tier.get(), 0, deleted_of, 2);
  writer.Write(tier.get(), round_chunks, 64);
  const TierStats after = WhenQuiet(tier.get());
  const double left = live / 2 + static_cast<double>(round_chunks * writer.chunk_bytes());
  report->Add("churn_write_amplification", "  the same while half of the sessions are deleted",
              (after.written_bytes() - before) / (left - live / 2), "");
  report->Add("churn_space_amplification", "  and bytes on disk per byte left", after.disk_bytes / left, "");
  std::vector<SessionRecord> kept;
  for (size_t i = 1; i < deleted_of; i += 2) kept.push_back(writer.sessions()[i]);
  BenchCompact(tier.get(), g, kept, report);
}

void BenchIndex(bool quick, Report* report) {
  KvGeometry g;
  g.layers = 1;
  g.query_heads = g.kv_heads = 1;
  g.head_dim = 16;
  g.chunk_tokens = g.group_tokens = 16;  // blocks of 1 KiB: the index is the point here
  const uint64_t sessions = quick ? 10000 : 100000, per_session = 10;
  TestingDaemon daemon;
  const std::string folder = daemon.dir() + "/data";
  Writer writer(g, per_session);
  auto tier = OpenTier(folder, g);
  writer.Write(tier.get(), sessions * per_session, 20000);
  {
    const size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    BlockStore store((BlockStoreOptions()));
    const auto start = Clock::now();
    HGA_CHECK(store.Load(tier.get()).ok());
    report->Add("index_load_s", absl::StrCat("index of ", sessions * per_session, " chunks in ", sessions,
                                             " sessions read from disk"), Since(start), "s");
    ::malloc_trim(0);
    const size_t after = mallinfo2().uordblks + mallinfo2().hblkhd;
    HGA_CHECK(store.stats().chunks == sessions * per_session);
    report->Add("index_bytes_per_chunk", "  memory per chunk, sessions included (aim 200)",
                static_cast<double>(after - before) / static_cast<double>(sessions * per_session), "bytes");
  }
  tier.reset();
  HGA_CHECK(daemon.Start(uint64_t{64} << 20).ok());
  auto client = GrpcKvClient::Attach({daemon.address(), "bench", g});
  HGA_CHECK(client.ok());
  std::mt19937_64 random(3);
  std::vector<double> ms;
  for (int i = 0; i < (quick ? 500 : 5000); ++i) {
    const SessionRecord& session = writer.sessions()[random() % writer.sessions().size()];
    const auto start = Clock::now();
    const auto opened = (*client)->OpenSession(session.name, writer.model(), session.chunks);
    ms.push_back(Since(start) * 1e3);
    HGA_CHECK(opened.ok() && opened->matched_chunks == per_session);
    HGA_CHECK((*client)->CloseSession(*opened).ok());
  }
  report->Add("open_p50_ms", "OpenSession in it, p50", Quantile(&ms, 0.5), "ms");
  report->Add("open_p99_ms", "OpenSession in it, p99 (aim 5)", Quantile(&ms, 0.99), "ms");
  client->reset();
}

}  // namespace hga
