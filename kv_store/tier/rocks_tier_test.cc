#include "kv_store/tier/rocks_tier.h"

#include <deque>
#include <filesystem>
#include <map>

#include "common/kv/kv_rows.h"
#include "gtest/gtest.h"
#include "kv_store/tier/record_codec.h"
#include "kv_store/tier/testing_rocks_tier.h"
#include "rocksdb/db.h"

namespace hga {
namespace {

TEST_F(RocksTierTest, KeepsEverythingAcrossReopen) {
  EXPECT_EQ(tier_->GetGeometry().status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  const SampleChunk a("a");
  Put(a);
  WriteStep step;
  step.put_sessions.push_back({"book", HashBytes("m"), 4, 99, {a.write.record->hash}, {1, 2}});
  ASSERT_TRUE(tier_->Write(step).ok());
  Reopen();
  ASSERT_TRUE(tier_->GetGeometry().ok());
  EXPECT_TRUE(*tier_->GetGeometry() == SampleGeometry());
  std::string out;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    ASSERT_TRUE(Read(a.block(layer), &out).ok());
    EXPECT_EQ(out, a.bytes[layer]);
  }
  EXPECT_EQ(tier_->ReadSummary(a.write.record->hash)->data, std::string(5000, 's'));
  int chunks = 0, sessions = 0;
  ASSERT_TRUE(tier_->ForEachChunk([&](auto r) { chunks += r.record->hash == a.write.record->hash; }).ok());
  ASSERT_TRUE(
      tier_->ForEachSession([&](auto r) { sessions += r.record->name == "book" && r.record->epoch == 4; }).ok());
  EXPECT_EQ(chunks, 1);
  EXPECT_EQ(sessions, 1);
}

TEST_F(RocksTierTest, DeletesBeforeItPuts) {
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  const SampleChunk a("a"), b("b");
  Put(a);
  WriteStep step;
  step.delete_chunks = {a.write.record->hash, b.write.record->hash};
  step.put_chunks.push_back(b.write);
  ASSERT_TRUE(tier_->Write(step).ok());
  std::string out;
  EXPECT_EQ(Read(a.block(1), &out).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(tier_->ReadSummary(a.write.record->hash).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Read(b.block(1), &out).ok());
}

TEST_F(RocksTierTest, FlippedBitIsDataLoss) {
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  const SampleChunk a("a"), b("b");
  Put(a);
  Put(b);
  Tamper("blocks", PartKey(a.block(2), 1));
  std::string out;
  EXPECT_EQ(Read(a.block(2), &out).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(Read(a.block(1), &out).ok());
  EXPECT_TRUE(Read(b.block(2), &out).ok());
}

TEST_F(RocksTierTest, SomeHeadsAreReadAlone) {
  KvGeometry g = SampleGeometry();
  g.kv_heads = g.query_heads = 4;
  ASSERT_TRUE(tier_->SetGeometry(g).ok());
  std::string block(g.block_bytes(), '\0');
  for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<char>(i * 7 + i / 256);
  const size_t part = block.size() / 4;
  ChunkRecord record;
  record.hash = HashBytes("a");
  record.token_ids.assign(g.chunk_tokens, 5);
  record.checksums.assign(g.layers, BlockChecksum(block.data(), block.size()));
  WriteStep step;
  step.put_chunks.push_back({std::make_shared<ChunkRecord>(record), std::make_shared<SummaryRecord>(),
                             std::vector<const uint8_t*>(g.layers, reinterpret_cast<const uint8_t*>(block.data()))});
  ASSERT_TRUE(tier_->Write(step).ok());
  std::string out;
  const auto read = [&](uint64_t heads) {
    out.assign(block.size(), '\xee');
    BlockRead read{{record.hash, 1}, reinterpret_cast<uint8_t*>(&out[0])};
    read.heads = heads;
    tier_->ReadBlocks(absl::MakeSpan(&read, 1));
    EXPECT_TRUE(heads != kAllHeads || !read.status.ok() || read.checksum == record.checksums[1]);
    return read.status.code();
  };
  for (uint64_t heads = 1; heads < 16; ++heads) {
    ASSERT_EQ(read(heads), absl::StatusCode::kOk);
    for (size_t i = 0; i < block.size(); ++i) {
      ASSERT_EQ(out[i], (heads >> (i / part) & 1) != 0 ? block[i] : '\xee') << heads << " " << i;
    }
  }
  EXPECT_EQ(read(kAllHeads), absl::StatusCode::kOk);
  EXPECT_EQ(out, block);
  Tamper("blocks", PartKey({record.hash, 1}, 2));
  EXPECT_EQ(read(kAllHeads), absl::StatusCode::kDataLoss);
  EXPECT_EQ(read(4), absl::StatusCode::kDataLoss);
  EXPECT_EQ(read(12), absl::StatusCode::kDataLoss);
  EXPECT_EQ(read(11), absl::StatusCode::kOk);
  Behind("blocks", [&](rocksdb::DB* db, rocksdb::ColumnFamilyHandle* handle) {
    ASSERT_TRUE(db->Delete(rocksdb::WriteOptions(), handle, PartKey({record.hash, 1}, 0)).ok());
  });
  ASSERT_TRUE(tier_->GetGeometry().ok());
  EXPECT_EQ(read(kAllHeads), absl::StatusCode::kNotFound);
  EXPECT_EQ(read(8), absl::StatusCode::kOk);
}

TEST_F(RocksTierTest, DamagedChunkRecordIsSaidToBe) {
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  const SampleChunk a("a"), b("b");
  Put(a);
  Put(b);
  Tamper("chunks", a.write.record->hash.ToBytes());
  std::map<std::string, absl::StatusCode> seen;
  ASSERT_TRUE(tier_->ForEachChunk([&](auto r) { seen[r.key] = r.record.status().code(); }).ok());
  EXPECT_EQ(seen[a.write.record->hash.ToBytes()], absl::StatusCode::kDataLoss);
  EXPECT_EQ(seen[b.write.record->hash.ToBytes()], absl::StatusCode::kOk);
  EXPECT_EQ(seen.size(), 2u);
}

TEST_F(RocksTierTest, TokenIdsWithoutBlocks) {
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  WriteStep step;
  step.put_tokens.push_back({HashBytes("c"), HashBytes("p"), {1, 2}, {}});
  ASSERT_TRUE(tier_->Write(step).ok());
  Reopen();
  int seen = 0;
  ASSERT_TRUE(tier_->ForEachChunk([&](auto r) { seen += r.record->token_ids.size() == 2; }).ok());
  EXPECT_EQ(seen, 1);
}

TEST_F(RocksTierTest, DroppedBlocksLeaveTheirTokenIds) {
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  const SampleChunk a("a"), b("b");
  Put(a);
  Put(b);
  WriteStep step;
  step.drop_blocks = {a.write.record->hash, HashBytes("nobody")};
  ASSERT_TRUE(tier_->Write(step).ok());
  ASSERT_TRUE(tier_->Write(step).ok());  // again: as after a step that failed
  Reopen();
  ASSERT_TRUE(tier_->GetGeometry().ok());
  const auto records = tier_->ReadChunks({a.write.record->hash, b.write.record->hash, HashBytes("nobody")});
  ASSERT_TRUE(records[0].ok() && records[1].ok());
  EXPECT_EQ(records[0]->token_ids, a.write.record->token_ids);
  EXPECT_TRUE(records[0]->checksums.empty());
  EXPECT_EQ(records[1]->checksums, b.write.record->checksums);
  EXPECT_EQ(records[2].status().code(), absl::StatusCode::kNotFound);
  std::string bytes;
  EXPECT_EQ(Read(a.block(0), &bytes).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Read(b.block(0), &bytes).ok());
  EXPECT_EQ(tier_->ReadSummary(a.write.record->hash).status().code(), absl::StatusCode::kNotFound);
  // Written in the same step: there.
  step.drop_blocks = {b.write.record->hash};
  step.put_chunks = {b.write};
  ASSERT_TRUE(tier_->Write(step).ok());
  EXPECT_TRUE(Read(b.block(1), &bytes).ok());
}

TEST_F(RocksTierTest, AnotherVersionIsRefusedAndLeftAsItIs) {
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  const SampleChunk a("a");
  Put(a);
  for (const std::string& stored : {EncodeStoreVersion(kStoreVersion + 1), std::string()}) {
    const auto change = [&](rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family) {
      // None: a store from before there was such a record.
      const rocksdb::Status status = stored.empty() ? db->Delete(rocksdb::WriteOptions(), family, "version")
                                                    : db->Put(rocksdb::WriteOptions(), family, "version", stored);
      ASSERT_TRUE(status.ok());
    };
    Behind("default", change, /*reopen=*/false);
    const auto refused = OpenRocksTier({dir_ + "/data"});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition) << refused.status();
    EXPECT_NE(refused.status().message().find("format version"), absl::string_view::npos) << refused.status();
  }
}

TEST_F(RocksTierTest, SecondOpenOfTheFolderIsRefused) {
  const auto second = OpenRocksTier({dir_ + "/data"});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
}

TEST_F(RocksTierTest, LargeStepsPassTheLogAndSurvive) {
  options_.past_log_bytes = 1;
  Reopen();
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  const SampleChunk a("a"), b("b");
  const uint64_t log_before = tier_->Stats().wal_written_bytes;
  Put(a);
  Put(b);
  EXPECT_LT(tier_->Stats().wal_written_bytes - log_before, SampleGeometry().block_bytes());
  Reopen();
  ASSERT_TRUE(tier_->GetGeometry().ok());
  std::string out;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    ASSERT_TRUE(Read(b.block(layer), &out).ok());
    EXPECT_EQ(out, b.bytes[layer]);
  }
  EXPECT_EQ(tier_->ReadSummary(a.write.record->hash)->data, std::string(5000, 's'));
}

TEST_F(RocksTierTest, SameChunkDeletedAndPutPastTheLogIsThere) {
  options_.past_log_bytes = 1;
  Reopen();
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  const SampleChunk a("a");
  Put(a);
  WriteStep step;
  step.delete_chunks = {a.write.record->hash};
  step.put_chunks.push_back(a.write);
  ASSERT_TRUE(tier_->Write(step).ok());
  std::string out;
  EXPECT_TRUE(Read(a.block(1), &out).ok());
}

// As a crash leaves it between the blocks and their records.
TEST_F(RocksTierTest, BlocksWithoutRecordAreDeletedAtTheNextStart) {
  options_.past_log_bytes = 1;
  Reopen();
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  const SampleChunk a("a"), b("b");
  Put(a);
  Put(b);
  Behind("default", [&](rocksdb::DB* db, rocksdb::ColumnFamilyHandle* handle) {
    const std::string unfinished = EncodeChunkList({a.write.record->hash});
    ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), handle, "unfinished", unfinished).ok());
  });
  std::string out;
  EXPECT_EQ(Read(a.block(0), &out).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Read(b.block(0), &out).ok());
}

TEST_F(RocksTierTest, KeepsItsDiskBudgetWhileOldChunksAreDeleted) {
  options_.past_log_bytes = 1;
  options_.disk_bytes = 32 << 20;
  options_.memory_bytes = 16 << 20;
  Reopen();
  KvGeometry g = SampleGeometry();
  g.kv_heads = g.query_heads = 8;
  g.head_dim = 128;  // 256 KiB a block
  ASSERT_TRUE(tier_->SetGeometry(g).ok());
  const std::string bytes(g.block_bytes(), 'x');
  std::deque<ChunkHash> live;
  for (int i = 0; i < 20; ++i) {  // 45 MiB in all
    WriteStep step;
    for (int j = 0; j < 3; ++j) {
      ChunkRecord record;
      record.hash = HashBytes(std::to_string(i * 3 + j));
      record.token_ids.assign(g.chunk_tokens, 5);
      record.checksums.assign(g.layers, BlockChecksum(bytes.data(), bytes.size()));
      ChunkWrite write;
      write.record = std::make_shared<ChunkRecord>(record);
      write.summary = std::make_shared<SummaryRecord>(SummaryRecord{"mean", "s"});
      write.blocks.assign(g.layers, reinterpret_cast<const uint8_t*>(bytes.data()));
      step.put_chunks.push_back(write);
      live.push_back(record.hash);
      if (live.size() <= 12) continue;
      step.delete_chunks.push_back(live[j]);  // not in order, so that no blob file is dead as a whole
      live.erase(live.begin() + j);
    }
    const absl::Status status = tier_->Write(step);
    ASSERT_TRUE(status.ok()) << i << ": " << status;
    ASSERT_LE(tier_->Stats().disk_bytes, options_.disk_bytes) << i;
    ASSERT_LE(tier_->Stats().memory_bytes, options_.memory_bytes) << i;
  }
  std::string out(g.block_bytes(), '\0');
  for (const ChunkHash& hash : live) {
    BlockRead read{{hash, 2}, reinterpret_cast<uint8_t*>(&out[0]), absl::OkStatus()};
    tier_->ReadBlocks(absl::MakeSpan(&read, 1));
    EXPECT_TRUE(read.status.ok()) << read.status;
  }
}

TEST_F(RocksTierTest, KeepsInt8AsItIs) {
  options_.kv_dtype = KvDtype::kInt8;  // for blocks of bf16
  Reopen();
  KvGeometry g = SampleGeometry();
  g.dtype = KvDtype::kInt8;
  ASSERT_TRUE(tier_->SetGeometry(g).ok());
  SampleChunk a("a");
  ChunkRecord record = *a.write.record;
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    ASSERT_GE(a.bytes[layer].size(), g.block_bytes());
    a.bytes[layer].resize(g.block_bytes());
    record.checksums[layer] = BlockChecksum(a.bytes[layer].data(), g.block_bytes());
  }
  a.write.record = std::make_shared<ChunkRecord>(record);
  Put(a);
  Reopen();
  ASSERT_TRUE(tier_->GetGeometry().ok());
  EXPECT_TRUE(*tier_->GetGeometry() == g);
  std::string out(g.block_bytes(), '\0');
  BlockRead read;
  read.name = a.block(0);
  read.out = reinterpret_cast<uint8_t*>(&out[0]);
  tier_->ReadBlocks(absl::MakeSpan(&read, 1));
  EXPECT_TRUE(read.status.ok()) << read.status;
  EXPECT_EQ(out, a.bytes[0]);
}

TEST_F(RocksTierTest, PacksWhatWasRoundedAndKeepsTheRest) {
  options_.kv_dtype = KvDtype::kInt8;
  Reopen();
  const KvGeometry g = SampleGeometry();
  ASSERT_TRUE(tier_->SetGeometry(g).ok());
  SampleChunk a("a");  // its bytes are no rounded values
  SampleChunk b("b");
  ChunkRecord record = *b.write.record;
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    bf16* block = reinterpret_cast<bf16*>(&b.bytes[layer][0]);
    for (size_t i = 0; i < g.block_elements(); ++i) block[i] = ToBf16(static_cast<float>(i % 251) / 7 - 10);
    for (size_t row = 0; row < g.block_elements(); row += g.head_dim)
      RoundKvRow(KvDtype::kInt8, block + row, g.head_dim);
    record.checksums[layer] = BlockChecksum(block, g.block_bytes());
  }
  b.write.record = std::make_shared<ChunkRecord>(record);
  Put(a);
  Put(b);
  std::vector<size_t> sizes;
  const auto look = [&](const SampleChunk& chunk) {
    Behind("blocks", [&](rocksdb::DB* db, rocksdb::ColumnFamilyHandle* handle) {
      std::string value;
      ASSERT_TRUE(db->Get(rocksdb::ReadOptions(), handle, PartKey(chunk.block(0), 1), &value).ok());
      sizes.push_back(g.kv_heads * (value.size() - kBlockHeaderBytes - sizeof(uint64_t)));
    });
  };
  look(a);
  look(b);
  EXPECT_EQ(sizes[0], g.block_bytes());
  EXPECT_EQ(sizes[1], g.block_elements() / g.head_dim * PackedRowBytes(g.head_dim));
  options_.kv_dtype = KvDtype::kBf16;  // each block says itself how it is packed
  Reopen();
  ASSERT_TRUE(tier_->GetGeometry().ok());
  std::string out;
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    ASSERT_TRUE(Read(a.block(layer), &out).ok());
    EXPECT_EQ(out, a.bytes[layer]);
    ASSERT_TRUE(Read(b.block(layer), &out).ok());
    EXPECT_EQ(out, b.bytes[layer]);
  }
  Tamper("blocks", PartKey(b.block(1), 0));
  EXPECT_EQ(Read(b.block(1), &out).code(), absl::StatusCode::kDataLoss);
}

TEST_F(RocksTierTest, RefusesWhenItsDiskBudgetIsFullOfLiveBlocks) {
  options_.disk_bytes = 12 << 20;
  Reopen();
  ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
  absl::Status status;
  for (int i = 0; i < 2000 && status.ok(); ++i) {
    const SampleChunk chunk(std::to_string(i));
    WriteStep step;
    step.put_chunks.push_back(chunk.write);
    status = tier_->Write(step);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

}  // namespace
}  // namespace hga
