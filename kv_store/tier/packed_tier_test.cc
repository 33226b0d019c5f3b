#include "kv_store/tier/packed_tier.h"

#include <atomic>
#include <thread>

#include "common/base/temporary_folder.h"
#include "common/kv/kv_rows.h"
#include "gtest/gtest.h"
#include "kv_store/tier/memory_tier.h"
#include "kv_store/tier/rocks_tier.h"

namespace hga {
namespace {

KvGeometry SmallGeometry() {
  KvGeometry g;
  g.layers = 3;
  g.query_heads = 2;
  g.kv_heads = 1;
  g.head_dim = 32;
  return g;
}

// A chunk of K/V as a worker with --kv_dtype int8 makes it.
struct RoundedChunk {
  explicit RoundedChunk(const std::string& name, int salt = 0) {
    const KvGeometry g = SmallGeometry();
    ChunkRecord record;
    record.hash = HashBytes(name);
    record.token_ids.assign(g.chunk_tokens, 5);
    for (uint32_t layer = 0; layer < g.layers; ++layer) {
      std::string block(g.block_bytes(), '\0');
      bf16* values = reinterpret_cast<bf16*>(&block[0]);
      for (size_t i = 0; i < g.block_elements(); ++i)
        values[i] = ToBf16(static_cast<float>((i * 31 + layer * 7 + salt + name[0]) % 251) / 7 - 10);
      for (size_t row = 0; row < g.block_elements(); row += g.head_dim)
        RoundKvRow(KvDtype::kInt8, values + row, g.head_dim);
      record.checksums.push_back(BlockChecksum(block.data(), block.size()));
      bytes.push_back(std::move(block));
    }
    write.record = std::make_shared<ChunkRecord>(record);
    write.summary = std::make_shared<SummaryRecord>(SummaryRecord{"mean", "s"});
    for (const std::string& b : bytes) write.blocks.push_back(reinterpret_cast<const uint8_t*>(b.data()));
  }
  const ChunkHash& hash() const { return write.record->hash; }

  std::vector<std::string> bytes;
  ChunkWrite write;
};

struct Found {
  std::vector<absl::Status> statuses;
  std::vector<std::string> bytes;
  std::vector<bool> from_ram;
};

Found ReadAll(KvTier* tier, const std::vector<BlockName>& names) {
  Found found;
  found.bytes.assign(names.size(), std::string(SmallGeometry().block_bytes(), '\0'));
  std::vector<BlockRead> reads(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    reads[i].name = names[i];
    reads[i].out = reinterpret_cast<uint8_t*>(&found.bytes[i][0]);
  }
  tier->ReadBlocks(absl::MakeSpan(reads));
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(reads[i].name, names[i]);  // in the caller's order
    found.statuses.push_back(reads[i].status);
    found.from_ram.push_back(reads[i].from_ram);
    if (!reads[i].status.ok()) continue;
    EXPECT_EQ(reads[i].checksum, BlockChecksum(reads[i].out, found.bytes[i].size()));
  }
  return found;
}

void Put(KvTier* tier, const RoundedChunk& chunk) {
  WriteStep step;
  step.put_chunks.push_back(chunk.write);
  ASSERT_TRUE(tier->Write(step).ok());
}

class PackedTierTest : public ::testing::Test {
 protected:
  void SetUp() override { Make(1 << 20); }
  void Make(uint64_t budget, KvDtype dtype = KvDtype::kInt8) {
    disk_ = std::make_shared<MemoryTier>(dtype);
    tier_ = std::make_unique<PackedTier>(disk_, budget);
    ASSERT_TRUE(tier_->SetGeometry(SmallGeometry()).ok());
  }

  std::shared_ptr<MemoryTier> disk_;
  std::unique_ptr<PackedTier> tier_;
};

TEST_F(PackedTierTest, ServesWhatWasWrittenFromRamBitByBit) {
  const RoundedChunk a("a");
  Put(tier_.get(), a);
  for (uint32_t layer = 0; layer < 3; ++layer) ASSERT_TRUE(disk_->DamageBlock({a.hash(), layer}));
  const Found got = ReadAll(tier_.get(), {{a.hash(), 2}, {a.hash(), 0}, {a.hash(), 1}});
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(got.statuses[i].ok() && got.from_ram[i]) << got.statuses[i];
    EXPECT_EQ(got.bytes[i], a.bytes[(i + 2) % 3]);
  }
  const TierStats stats = tier_->Stats();
  EXPECT_EQ(stats.packed_ram_blocks, 3u);
  EXPECT_EQ(stats.packed_ram_budget_bytes, 1u << 20);
  EXPECT_GT(stats.packed_ram_bytes, 3 * SmallGeometry().block_bytes() / 2);
  EXPECT_LT(stats.packed_ram_bytes, 3 * (SmallGeometry().block_bytes() * 33 / 64 + 300));
}

TEST_F(PackedTierTest, WhatWasNotRoundedIsLeftToTheDisk) {
  RoundedChunk odd("o");
  odd.bytes[1].assign(SmallGeometry().block_bytes(), 'x');
  ChunkRecord record = *odd.write.record;
  record.checksums[1] = BlockChecksum(odd.bytes[1].data(), odd.bytes[1].size());
  odd.write.record = std::make_shared<ChunkRecord>(record);
  odd.write.blocks[1] = reinterpret_cast<const uint8_t*>(odd.bytes[1].data());
  Put(tier_.get(), odd);
  const Found got = ReadAll(tier_.get(), {{odd.hash(), 0}, {odd.hash(), 1}, {odd.hash(), 2}});
  EXPECT_EQ(got.bytes, odd.bytes);
  EXPECT_EQ(got.from_ram, (std::vector<bool>{true, false, true}));
  for (uint32_t layer = 0; layer < 3; ++layer) EXPECT_EQ(tier_->IsInRam({odd.hash(), layer}), layer != 1) << layer;
}

// It packs nothing by itself: what is kept are the disk tier's own bytes.
TEST_F(PackedTierTest, WhatTheDiskDoesNotPackIsNotKept) {
  Make(1 << 20, KvDtype::kBf16);
  const RoundedChunk a("a");
  Put(tier_.get(), a);
  EXPECT_EQ(ReadAll(tier_.get(), {{a.hash(), 0}}).bytes[0], a.bytes[0]);
  EXPECT_EQ(tier_->Stats().packed_ram_blocks, 0u);
}

// What a client changed between its commit's check and the write: nothing of it is served.
TEST_F(PackedTierTest, DamagedInRamIsReadFromDisk) {
  RoundedChunk a("a");
  const RoundedChunk good("a");
  ChunkWrite damaged = a.write;
  ChunkRecord record = *a.write.record;
  record.checksums[1] ^= 1;
  damaged.record = std::make_shared<ChunkRecord>(record);
  WriteStep step;
  step.put_chunks.push_back(damaged);
  ASSERT_TRUE(tier_->Write(step).ok());
  WriteStep repaired;
  repaired.put_chunks.push_back(good.write);
  ASSERT_TRUE(disk_->Write(repaired).ok());  // behind the packed level's back
  const Found got = ReadAll(tier_.get(), {{a.hash(), 0}, {a.hash(), 1}});
  EXPECT_EQ(got.from_ram, (std::vector<bool>{true, false}));
  EXPECT_TRUE(got.statuses[1].ok()) << got.statuses[1];
  EXPECT_EQ(got.bytes[1], good.bytes[1]);
  EXPECT_EQ(tier_->Stats().packed_ram_checksum_errors, 1u);
}

TEST_F(PackedTierTest, DeletedDroppedAndReplacedChunksAreForgotten) {
  const RoundedChunk a("a"), b("b"), c("c"), newer("c", 5);
  for (const RoundedChunk* chunk : {&a, &b, &c}) Put(tier_.get(), *chunk);
  WriteStep step;
  step.delete_chunks.push_back(a.hash());
  step.drop_blocks.push_back(b.hash());
  step.put_chunks.push_back(newer.write);
  ASSERT_TRUE(tier_->Write(step).ok());
  const Found got = ReadAll(tier_.get(), {{a.hash(), 0}, {b.hash(), 0}, {c.hash(), 0}});
  EXPECT_EQ(got.statuses[0].code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(got.statuses[1].code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(got.bytes[2], newer.bytes[0]);
  EXPECT_EQ(tier_->Stats().packed_ram_blocks, 3u);
}

// Nobody knows what is on disk after an error: neither the old chunk nor the new one is served from RAM.
TEST_F(PackedTierTest, AFailedWriteForgetsItsChunks) {
  const RoundedChunk a("a"), newer("a", 3);
  Put(tier_.get(), a);
  disk_->FailWrites(absl::UnavailableError("disk"));
  WriteStep step;
  step.put_chunks.push_back(newer.write);
  EXPECT_FALSE(tier_->Write(step).ok());
  EXPECT_EQ(tier_->Stats().packed_ram_blocks, 0u);
  EXPECT_FALSE(ReadAll(tier_.get(), {{a.hash(), 0}}).from_ram[0]);
}

TEST_F(PackedTierTest, KeepsItsBudget) {
  Make(20000);
  for (char name = 'a'; name <= 'z'; ++name) {
    Put(tier_.get(), RoundedChunk(std::string(1, name)));
    EXPECT_LE(tier_->Stats().packed_ram_bytes, 20000u);
  }
  EXPECT_GT(tier_->Stats().packed_ram_evictions, 0u);
  const Found got = ReadAll(tier_.get(), {{RoundedChunk("a").hash(), 0}, {RoundedChunk("z").hash(), 2}});
  EXPECT_EQ(got.from_ram, (std::vector<bool>{false, true}));
}

class PackedOverRocks : public ::testing::Test {
 protected:
  void Reopen() {
    tier_.reset();
    RocksTierOptions options;
    options.data_dir = folder_.File("data");
    options.kv_dtype = KvDtype::kInt8;
    auto disk = OpenRocksTier(options);
    ASSERT_TRUE(disk.ok()) << disk.status();
    tier_ = std::make_unique<PackedTier>(*std::move(disk), 64 << 20);
  }

  const TemporaryFolder folder_;
  std::unique_ptr<PackedTier> tier_;
};

TEST_F(PackedOverRocks, WhatIsReadFromDiskStaysPackedInRam) {
  Reopen();
  ASSERT_TRUE(tier_->SetGeometry(SmallGeometry()).ok());
  const RoundedChunk a("a");
  Put(tier_.get(), a);
  Reopen();
  ASSERT_TRUE(tier_->GetGeometry().ok());
  const std::vector<BlockName> names = {{a.hash(), 0}, {a.hash(), 1}, {a.hash(), 2}};
  const Found first = ReadAll(tier_.get(), names), second = ReadAll(tier_.get(), names);
  EXPECT_EQ(first.bytes, a.bytes);
  EXPECT_EQ(first.from_ram, std::vector<bool>(3, false));
  EXPECT_EQ(second.bytes, a.bytes);
  EXPECT_EQ(second.from_ram, std::vector<bool>(3, true));
}

// Readers race a writer that deletes and rewrites the chunk: whatever they read is one content or the other, and the
// last one is what is read in the end.
TEST_F(PackedOverRocks, ReadersNeverBringAnOldContentBack) {
  Reopen();
  ASSERT_TRUE(tier_->SetGeometry(SmallGeometry()).ok());
  const RoundedChunk versions[2] = {RoundedChunk("a", 0), RoundedChunk("a", 1)};
  Put(tier_.get(), versions[0]);
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!stop) {
        const Found got = ReadAll(tier_.get(), {{versions[0].hash(), 1}});
        if (!got.statuses[0].ok()) continue;
        EXPECT_TRUE(got.bytes[0] == versions[0].bytes[1] || got.bytes[0] == versions[1].bytes[1]);
      }
    });
  }
  for (int i = 1; i <= 60; ++i) {
    WriteStep gone;
    gone.delete_chunks.push_back(versions[0].hash());
    ASSERT_TRUE(tier_->Write(gone).ok());
    EXPECT_EQ(ReadAll(tier_.get(), {{versions[0].hash(), 1}}).statuses[0].code(), absl::StatusCode::kNotFound);
    Put(tier_.get(), versions[i % 2]);
    EXPECT_EQ(ReadAll(tier_.get(), {{versions[0].hash(), 1}}).bytes[0], versions[i % 2].bytes[1]);
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

}  // namespace
}  // namespace hga
