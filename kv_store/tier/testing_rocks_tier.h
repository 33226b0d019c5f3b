// A disk tier in a fresh folder, and chunks to put into it. Tests only.
#ifndef HGA_KV_STORE_TIER_TESTING_ROCKS_TIER_H_
#define HGA_KV_STORE_TIER_TESTING_ROCKS_TIER_H_

#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kv_store/tier/rocks_tier.h"
#include "rocksdb/db.h"

namespace hga {

inline KvGeometry SampleGeometry() {
  KvGeometry g;
  g.layers = 3;
  g.query_heads = 2;
  g.kv_heads = 2;
  g.head_dim = 16;
  return g;
}

// A chunk with recognisable bytes in each layer.
struct SampleChunk {
  explicit SampleChunk(const std::string& name) {
    const KvGeometry g = SampleGeometry();
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
    options_.data_dir = dir_ + "/data";
    auto tier = OpenRocksTier(options_);
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  void Put(const SampleChunk& chunk) {
    WriteStep step;
    step.put_chunks.push_back(chunk.write);
    ASSERT_TRUE(tier_->Write(step).ok());
  }
  absl::Status Read(const BlockName& name, std::string* out) {
    out->assign(SampleGeometry().block_bytes(), '\0');
    BlockRead read;
    read.name = name;
    read.out = reinterpret_cast<uint8_t*>(&(*out)[0]);
    tier_->ReadBlocks(absl::MakeSpan(&read, 1));
    return read.status;
  }
  // Changes a stored value behind the tier's back.
  void Tamper(const std::string& family, const std::string& key_prefix) {
    Behind(family, [&](rocksdb::DB* db, rocksdb::ColumnFamilyHandle* handle) {
      std::unique_ptr<rocksdb::Iterator> it(db->NewIterator(rocksdb::ReadOptions(), handle));
      for (it->Seek(key_prefix); it->Valid() && it->key().starts_with(key_prefix); it->Next()) {
        std::string value = it->value().ToString();
        value[value.size() / 2] ^= 1;
        ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), handle, it->key(), value).ok());
      }
    });
    ASSERT_TRUE(tier_->GetGeometry().ok());
  }
  // Opens the database itself, and the tier again afterwards.
  void Behind(const std::string& family,
              const std::function<void(rocksdb::DB*, rocksdb::ColumnFamilyHandle*)>& work, bool reopen = true) {
    tier_.reset();
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    for (const char* name : {"default", "blocks", "chunks", "summaries", "sessions"}) {
      descriptors.emplace_back(name, rocksdb::ColumnFamilyOptions());
    }
    rocksdb::DB* db = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(rocksdb::DBOptions(), dir_ + "/data", descriptors, &handles, &db).ok());
    for (rocksdb::ColumnFamilyHandle* handle : handles) {
      if (handle->GetName() == family) work(db, handle);
    }
    for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
    delete db;
    if (reopen) Reopen();
  }

  std::string dir_;
  RocksTierOptions options_;
  std::unique_ptr<KvTier> tier_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_TESTING_ROCKS_TIER_H_
