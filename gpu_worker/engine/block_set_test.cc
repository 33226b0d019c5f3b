#include "gpu_worker/engine/block_set.h"

#include <memory>
#include <set>

#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kLayers = 3;

class BlockSetTest : public testing::Test {
 protected:
  HeldBlock Hold() {
    const auto slot = static_cast<uint32_t>(next_++);
    held_.insert(slot);
    return HeldBlock(&bytes_[slot], slot, releaser_);
  }
  std::vector<HeldBlock> HoldChunk() {
    std::vector<HeldBlock> blocks;
    for (uint32_t layer = 0; layer < kLayers; ++layer) blocks.push_back(Hold());
    return blocks;
  }

  uint8_t bytes_[64] = {};
  size_t next_ = 0;
  std::set<uint32_t> held_;
  const std::shared_ptr<const HeldBlock::Releaser> releaser_ =
      std::make_shared<const HeldBlock::Releaser>([this](uint32_t slot) { held_.erase(slot); });
  BlockSet set_{kLayers};
};

// What is lent can be read as before, counts, and cannot be released until it has come back.
TEST_F(BlockSetTest, CountsWhatCanBeRead) {
  set_.PutChunk(2, HoldChunk(), 1);
  EXPECT_EQ(set_.size(), 3u);
  set_.Put(4, 1, Hold(), 1);
  set_.Put(4, 1, Hold(), 2);  // in place of the one before
  EXPECT_EQ(set_.size(), 4u);
  EXPECT_EQ(held_.size(), 4u);

  std::vector<HeldBlock> lent = set_.Lend(2);
  EXPECT_EQ(set_.size(), 4u);
  EXPECT_TRUE(set_.HasChunk(2));
  set_.Release(2, 0);
  EXPECT_EQ(set_.size(), 4u);
  EXPECT_EQ(set_.Held(0, 10).size(), 1u);
  set_.PutChunk(2, std::move(lent), 3);
  EXPECT_EQ(set_.size(), 4u);

  set_.Release(2, 0);
  set_.Release(2, 0);
  set_.Release(7, 0);  // never was there
  EXPECT_EQ(set_.size(), 3u);
  EXPECT_EQ(set_.Find(2, 0), nullptr);
  EXPECT_FALSE(set_.HasChunk(2));
  EXPECT_EQ(held_.size(), 3u);
}

TEST_F(BlockSetTest, DropsFromAChunkOn) {
  for (const uint32_t chunk : {0, 1, 3}) set_.PutChunk(chunk, HoldChunk(), 1);
  set_.Release(3, 2);
  set_.DropFrom(5);
  EXPECT_EQ(set_.size(), 8u);
  set_.DropFrom(1);
  EXPECT_EQ(set_.size(), 3u);
  EXPECT_EQ(held_.size(), 3u);
  set_.DropFrom(1);
  EXPECT_EQ(set_.size(), 3u);
  EXPECT_TRUE(set_.HasChunk(0));
  set_.DropFrom(0);
  EXPECT_EQ(set_.size(), 0u);
  EXPECT_TRUE(held_.empty());
}

}  // namespace
}  // namespace hga
