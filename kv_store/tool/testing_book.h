// A store with one session, "book": three chunks, of which the last has token ids only, and a tail. Tests only.
#ifndef HGA_KV_STORE_TOOL_TESTING_BOOK_H_
#define HGA_KV_STORE_TOOL_TESTING_BOOK_H_

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kv_store/tier/memory_tier.h"
#include "kv_store/tier/small_geometry.h"
#include "kv_store/tool/session_file.h"

namespace hga {

class BookTest : public ::testing::Test {
 protected:
  // `whole`: chunks with K/V, of three.
  explicit BookTest(const KvGeometry& geometry = SmallGeometry(), size_t whole = 2) : g_(geometry), whole_(whole) {}

  void SetUp() override {
    ASSERT_TRUE(tier_.SetGeometry(g_).ok());
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < 3 * g_.chunk_tokens; ++i) tokens.push_back(i);
    hashes_ = ChunkHashes(model_, g_, tokens);
    WriteStep step;
    std::vector<std::vector<uint8_t>> data;
    for (size_t i = 0; i < 3; ++i) {
      const auto first = tokens.begin() + i * g_.chunk_tokens;
      ChunkRecord record{
          hashes_[i], i == 0 ? SeedHash(model_, g_) : hashes_[i - 1], {first, first + g_.chunk_tokens}, {}};
      if (i >= whole_) {  // its blocks never reached the disk
        step.put_tokens.push_back(record);
        continue;
      }
      ChunkWrite write;
      for (uint32_t layer = 0; layer < g_.layers; ++layer) {
        data.push_back(Block(i, layer));
        record.checksums.push_back(BlockChecksum(data.back().data(), g_.block_bytes()));
      }
      for (uint32_t layer = 0; layer < g_.layers; ++layer) write.blocks.push_back(data[g_.layers * i + layer].data());
      write.record = std::make_shared<ChunkRecord>(record);
      write.summary = std::make_shared<SummaryRecord>(SummaryRecord{"mean", "s"});
      step.put_chunks.push_back(write);
    }
    step.put_sessions.push_back({"book", model_, 1, 5, hashes_, {7}});
    ASSERT_TRUE(tier_.Write(step).ok());
  }

  std::vector<uint8_t> Block(size_t chunk, uint32_t layer) const {
    return std::vector<uint8_t>(g_.block_bytes(), static_cast<uint8_t>(16 * chunk + layer));
  }
  std::string Export() {
    std::ostringstream out;
    EXPECT_TRUE(ExportSession(&tier_, "book", &out).ok());
    return out.str();
  }

  const KvGeometry g_;
  const size_t whole_;
  const ModelFingerprint model_ = HashBytes("model");
  std::vector<ChunkHash> hashes_;
  MemoryTier tier_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_TOOL_TESTING_BOOK_H_
