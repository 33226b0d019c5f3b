#include "tests/bench/kv_store_packed.h"

#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/kv/kv_rows.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"
#include "kv_store/tier/packed_tier.h"
#include "kv_store/tier/rocks_tier.h"

namespace hga {
namespace {

using Clock = std::chrono::steady_clock;
constexpr KvDtype kDtype = KvDtype::kInt8;

double Since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Chunks of SmolLM2's shape with the bytes of a few blocks that a worker with --kv_dtype int8 could have made.
class Chunks {
 public:
  explicit Chunks(uint32_t count) {
    g_.layers = 30;
    g_.query_heads = 9;
    g_.kv_heads = 3;
    g_.head_dim = 64;
    hashes_ = ChunkHashes(model_, g_, std::vector<uint32_t>(size_t{count} * g_.chunk_tokens, 1));
    std::mt19937 random(5);
    std::normal_distribution<float> value;
    for (std::vector<bf16>& block : blocks_) {
      block.resize(g_.block_elements());
      for (bf16& x : block) x = ToBf16(value(random));
      for (size_t row = 0; row < block.size(); row += g_.head_dim) RoundKvRow(kDtype, block.data() + row, g_.head_dim);
    }
  }

  const KvGeometry& geometry() const { return g_; }
  const ModelFingerprint& model() const { return model_; }
  const std::vector<ChunkHash>& hashes() const { return hashes_; }
  uint64_t bytes() const { return hashes_.size() * g_.layers * g_.block_bytes(); }
  std::vector<BlockName> Names(size_t chunk) const {
    std::vector<BlockName> names;
    for (uint32_t layer = 0; layer < g_.layers; ++layer) names.push_back({hashes_[chunk], layer});
    return names;
  }
  CommitChunk Make(size_t i, std::vector<HeldBlock> slots) const {
    for (HeldBlock& slot : slots) std::memcpy(slot.data(), Block(i).data(), g_.block_bytes());
    return {hashes_[i], i == 0 ? SeedHash(model_, g_) : hashes_[i - 1], std::vector<uint32_t>(g_.chunk_tokens, 1),
            std::move(slots), "mean", "s"};
  }
  // All of them, straight to the tier, in steps of 64 MiB.
  void Write(KvTier* tier) const {
    WriteStep step;
    for (size_t i = 0; i < hashes_.size(); ++i) {
      const uint8_t* bytes = reinterpret_cast<const uint8_t*>(Block(i).data());
      ChunkRecord record{hashes_[i], i == 0 ? SeedHash(model_, g_) : hashes_[i - 1],
                         std::vector<uint32_t>(g_.chunk_tokens, 1),
                         std::vector<uint64_t>(g_.layers, BlockChecksum(bytes, g_.block_bytes()))};
      step.put_chunks.push_back({std::make_shared<const ChunkRecord>(std::move(record)), summary_,
                                 std::vector<const uint8_t*>(g_.layers, bytes)});
      if (step.put_chunks.size() * g_.layers * g_.block_bytes() < 64 << 20 && i + 1 < hashes_.size()) continue;
      HGA_CHECK(tier->Write(step).ok());
      step = WriteStep();
    }
  }

 private:
  const std::vector<bf16>& Block(size_t i) const { return blocks_[i % std::size(blocks_)]; }

  KvGeometry g_;
  const ModelFingerprint model_ = HashBytes("bench");
  const std::shared_ptr<const SummaryRecord> summary_ =
      std::make_shared<const SummaryRecord>(SummaryRecord{"mean", "s"});
  std::vector<ChunkHash> hashes_;
  std::vector<bf16> blocks_[7];
};

// A chunk's blocks in one call, each chunk once.
std::vector<double> FetchAll(GrpcKvClient* client, const Chunks& chunks, FoundIn expected) {
  std::vector<double> us;
  for (size_t i = 0; i < chunks.hashes().size(); ++i) {
    const std::vector<BlockName> names = chunks.Names(i);
    const auto start = Clock::now();
    const auto got = client->Fetch(names);
    us.push_back(Since(start) * 1e6);
    HGA_CHECK(got.ok());
    for (const FetchedBlock& block : *got) HGA_CHECK(block.status.ok() && block.found_in == expected);
  }
  return us;
}

void Print(const std::string& key, const std::string& what, const Chunks& chunks, std::vector<double> us,
           Report* report) {
  const double p50 = Quantile(&us, 0.5), layers = chunks.geometry().layers;
  report->Add(key + "_p50_us", what + ", p50", p50, "us");
  report->Add(key + "_block_us", "  a block", p50 / layers, "us");
  report->Add(key + "_gbps", "  K/V", layers * chunks.geometry().block_bytes() / p50 / 1e3, "GB/s");
}

// What a worker sees: 30 blocks of 48 KiB from the arena, packed in RAM, packed on disk.
void BenchFetches(const Chunks& chunks, Report* report) {
  TestingDaemon daemon;
  HGA_CHECK(daemon.Start(uint64_t{1} << 30, /*commit_waits_for_disk=*/false, kDtype, uint64_t{1} << 29).ok());
  {
    auto client = GrpcKvClient::Attach({daemon.address(), "bench", chunks.geometry()});
    HGA_CHECK(client.ok());
    const OpenedSession session = *(*client)->OpenSession("bench", chunks.model(), {});
    for (size_t i = 0; i < chunks.hashes().size(); ++i) {
      auto slots = (*client)->Reserve(chunks.geometry().layers);
      HGA_CHECK(slots.ok() && (*client)->Commit(session, chunks.Make(i, *std::move(slots))).ok());
    }
    HGA_CHECK((*client)->UpdateSession(session, chunks.hashes(), {}).ok() && (*client)->Flush(false).ok());
    Print("packed_arena", "Fetch of 30 blocks from the arena", chunks, FetchAll(client->get(), chunks, FoundIn::kRam),
          report);
    std::vector<double> packed;
    for (int pass = 0; pass < 3; ++pass) {
      HGA_CHECK((*client)->Flush(/*drop_ram=*/true).ok());
      const std::vector<double> us = FetchAll(client->get(), chunks, FoundIn::kRam);
      packed.insert(packed.end(), us.begin(), us.end());
    }
    Print("packed_ram", "  packed in RAM", chunks, packed, report);
    HGA_CHECK((*client)->CloseSession(session).ok());
  }
  daemon.Stop(/*flush=*/true);
  HGA_CHECK(daemon.Start(uint64_t{1} << 30, /*commit_waits_for_disk=*/false, kDtype).ok());
  auto client = GrpcKvClient::Attach({daemon.address(), "bench", chunks.geometry()});
  HGA_CHECK(client.ok());
  Print("packed_disk", "  packed on disk", chunks, FetchAll(client->get(), chunks, FoundIn::kDisk), report);
}

// One thread, without the store around it: unpacking and the checksum.
void BenchTier(const Chunks& chunks, Report* report) {
  TestingDaemon folder;  // for its folder
  RocksTierOptions options;
  options.kv_dtype = kDtype;
  std::vector<uint8_t> out(chunks.geometry().layers * chunks.geometry().block_bytes());
  for (const bool packed : {false, true}) {
    options.data_dir = absl::StrCat(folder.dir(), packed ? "/packed" : "/plain");
    auto disk = OpenRocksTier(options);
    HGA_CHECK(disk.ok());
    std::shared_ptr<KvTier> tier = *std::move(disk);
    if (packed) tier = std::make_shared<PackedTier>(tier, uint64_t{1} << 29);
    HGA_CHECK(tier->SetGeometry(chunks.geometry()).ok());
    const double cpu = -CpuSeconds();
    const auto start = Clock::now();
    chunks.Write(tier.get());
    report->Add(packed ? "packed_write_mbps" : "int8_write_mbps",
                packed ? "  with the packed level" : "write-back of int8, K/V", chunks.bytes() / Since(start) / 1e6,
                "MB/s");
    report->Add(packed ? "packed_write_cpu_s_per_gb" : "int8_write_cpu_s_per_gb", "  seconds of CPU per GB",
                (cpu + CpuSeconds()) / chunks.bytes() * 1e9, "s");
    if (!packed) continue;
    std::vector<double> us;
    for (size_t i = 0; i < chunks.hashes().size(); ++i) {
      std::vector<BlockRead> reads;
      for (const BlockName& name : chunks.Names(i)) {
        BlockRead read;
        read.name = name;
        read.out = out.data() + name.layer * chunks.geometry().block_bytes();
        reads.push_back(read);
      }
      const auto read_start = Clock::now();
      tier->ReadBlocks(absl::MakeSpan(reads));
      us.push_back(Since(read_start) * 1e6);
      for (const BlockRead& read : reads) HGA_CHECK(read.status.ok() && read.from_ram);
    }
    Print("packed_unpack", "unpacking 30 blocks, one thread", chunks, us, report);
  }
}

}  // namespace

void BenchPacked(bool quick, Report* report) {
  const Chunks chunks(quick ? 100 : 300);
  BenchFetches(chunks, report);
  BenchTier(chunks, report);
}

}  // namespace hga
