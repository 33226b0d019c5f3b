#include "kv_store/tier/rocks_tier.h"

#include <stdlib.h>

#include <filesystem>

#include "gtest/gtest.h"
#include "kv_store/tier/record_codec.h"
#include "rocksdb/db.h"

namespace hga {
namespace {

KvGeometry SmallGeometry() {
  KvGeometry g;
  g.layers = 3;
  g.query_heads = 2;
  g.kv_heads = 1;
  g.head_dim = 16;
  return g;
}

// A chunk with recognisable bytes in each layer.
struct SampleChunk {
  explicit SampleChunk(const std::string& name) {
    const KvGeometry g = SmallGeometry();
    ChunkRecord record;
    record.hash = HashBytes(name);
    record.parent = HashBytes("parent");
    record.token_ids.assign(g.chunk_tokens, 5);
    for (uint32_t layer = 0; layer < g.layers; ++layer) {
      bytes.emplace_back(g.block_bytes(), static_cast<char>(name[0] + layer));
      record.checksums.push_back(BlockChecksum(bytes.back().data(), bytes.back().size()));
    }
    write.record = std::make_shared<ChunkRecord>(record);
    write.summary = std::make_shared<SummaryRecord>(SummaryRecord{"mean", std::string(5000, 's')});
    for (const std::string& b : bytes) write.blocks.push_back(reinterpret_cast<const uint8_t*>(b.data()));
  }
  BlockName block(uint32_t layer) const { return {write.record->hash, layer}; }

  std::vector<std::string> bytes;
  ChunkWrite write;
};

class RocksTierTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/hga.XXXXXX";
    ASSERT_NE(::mkdtemp(dir), nullptr);
    dir_ = dir;
    Reopen();
  }
  void TearDown() override {
    tier_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Reopen() {
    tier_.reset();
    auto tier = OpenRocksTier({dir_ + "/data"});
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  void Put(const SampleChunk& chunk) {
    WriteStep step;
    step.put_chunks.push_back(chunk.write);
    ASSERT_TRUE(tier_->Write(step).ok());
  }
  absl::Status Read(const BlockName& name, std::string* out) {
    out->assign(SmallGeometry().block_bytes(), '\0');
    BlockRead read;
    read.name = name;
    read.out = reinterpret_cast<uint8_t*>(&(*out)[0]);
    tier_->ReadBlocks(absl::MakeSpan(&read, 1));
    return read.status;
  }
  // Changes a stored value behind the tier's back.
  void Tamper(const std::string& family, const std::string& key_prefix) {
    tier_.reset();
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    for (const char* name : {"default", "blocks", "chunks", "summaries", "sessions"}) {
      descriptors.emplace_back(name, rocksdb::ColumnFamilyOptions());
    }
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(rocksdb::DBOptions(), dir_ + "/data", descriptors, &handles, &db).ok());
    for (rocksdb::ColumnFamilyHandle* handle : handles) {
      if (handle->GetName() != family) continue;
      std::unique_ptr<rocksdb::Iterator> it(db->NewIterator(rocksdb::ReadOptions(), handle));
      for (it->Seek(key_prefix); it->Valid() && it->key().starts_with(key_prefix); it->Next()) {
        std::string value = it->value().ToString();
        value[value.size() / 2] ^= 1;
        ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), handle, it->key(), value).ok());
      }
    }
    for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
    delete db;
    Reopen();
    ASSERT_TRUE(tier_->GetGeometry().ok());
  }

  std::string dir_;
  std::unique_ptr<KvTier> tier_;
};

TEST_F(RocksTierTest, KeepsEverythingAcrossReopen) {
  EXPECT_EQ(tier_->GetGeometry().status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(tier_->SetGeometry(SmallGeometry()).ok());
  const SampleChunk a("a");
  Put(a);
  WriteStep step;
  step.put_sessions.push_back({"book", HashBytes("m"), 4, 99, {a.write.record->hash}, {1, 2}});
  ASSERT_TRUE(tier_->Write(step).ok());
  Reopen();
  ASSERT_TRUE(tier_->GetGeometry().ok());
  EXPECT_TRUE(*tier_->GetGeometry() == SmallGeometry());
  std::string out;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    ASSERT_TRUE(Read(a.block(layer), &out).ok());
    EXPECT_EQ(out, a.bytes[layer]);
  }
  EXPECT_EQ(tier_->ReadSummary(a.write.record->hash)->data, std::string(5000, 's'));
  int chunks = 0, sessions = 0;
  ASSERT_TRUE(tier_->ForEachChunk([&](ChunkRecord r) { chunks += r.hash == a.write.record->hash; }).ok());
  ASSERT_TRUE(
      tier_->ForEachSession([&](SessionRecord r) { sessions += r.name == "book" && r.epoch == 4; }).ok());
  EXPECT_EQ(chunks, 1);
  EXPECT_EQ(sessions, 1);
}

TEST_F(RocksTierTest, DeletesBeforeItPuts) {
  ASSERT_TRUE(tier_->SetGeometry(SmallGeometry()).ok());
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
  ASSERT_TRUE(tier_->SetGeometry(SmallGeometry()).ok());
  const SampleChunk a("a"), b("b");
  Put(a);
  Put(b);
  Tamper("blocks", BlockKey(a.block(2)));
  std::string out;
  EXPECT_EQ(Read(a.block(2), &out).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(Read(a.block(1), &out).ok());
  EXPECT_TRUE(Read(b.block(2), &out).ok());
}

TEST_F(RocksTierTest, DamagedChunkRecordIsSkipped) {
  ASSERT_TRUE(tier_->SetGeometry(SmallGeometry()).ok());
  const SampleChunk a("a"), b("b");
  Put(a);
  Put(b);
  Tamper("chunks", a.write.record->hash.ToBytes());
  std::vector<ChunkHash> seen;
  ASSERT_TRUE(tier_->ForEachChunk([&](ChunkRecord r) { seen.push_back(r.hash); }).ok());
  EXPECT_EQ(seen, std::vector<ChunkHash>{b.write.record->hash});
}

TEST_F(RocksTierTest, SecondOpenOfTheFolderIsRefused) {
  const auto second = OpenRocksTier({dir_ + "/data"});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
}

}  // namespace
}  // namespace hga
