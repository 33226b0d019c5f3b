#include "gpu_worker/engine/key_pages.h"

#include <cstring>
#include <set>

#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint64_t kBeside = 1;

KvGeometry Geometry(KvDtype dtype) {
  KvGeometry g;
  g.dtype = dtype;
  g.layers = 3;
  g.query_heads = 4;
  g.kv_heads = 2;
  g.head_dim = 8;
  return g;
}

// Slots that are held, by address.
class Arena {
 public:
  Arena(const KvGeometry& geometry, uint32_t slots) : bytes_(geometry.block_bytes()), free_(slots) {}

  KeyPages::FromArena source() {
    return [this](uint32_t count) {
      ++asked;
      std::vector<HeldBlock> blocks;
      for (; count > 0 && free_ > 0; --count, --free_) {
        memory_.push_back(std::make_unique<uint8_t[]>(bytes_));
        blocks.emplace_back(memory_.back().get(), 0, releaser_);
      }
      return blocks;
    };
  }
  uint32_t free() const { return free_; }
  int asked = 0;

 private:
  const size_t bytes_;
  uint32_t free_;
  std::vector<std::unique_ptr<uint8_t[]>> memory_;
  const std::shared_ptr<const HeldBlock::Releaser> releaser_ =
      std::make_shared<const HeldBlock::Releaser>([this](uint32_t) { ++free_; });
};

class KeyPagesTest : public testing::TestWithParam<KvDtype> {
 protected:
  const KvGeometry geometry_ = Geometry(GetParam());
  const uint64_t page_ = geometry_.block_bytes(), beside_ = kBeside * geometry_.chunk_tokens * geometry_.kv_heads;
};

// Its own memory first, but for what the arena's slots need; then the arena's, where they are wanted.
TEST_P(KeyPagesTest, TakesItsOwnMemoryThenTheArenas) {
  Arena arena(geometry_, 3);
  const uint64_t bytes = 16 * (page_ + beside_);
  KeyPages pages(geometry_, bytes, kBeside, arena.source());
  while (!pages.Grow(0, false).empty()) EXPECT_LE(pages.slots() / pages.keys_per_page() * (page_ + beside_), bytes);
  EXPECT_EQ(pages.slots(), 14 * pages.keys_per_page());
  EXPECT_EQ(arena.asked, 0);
  EXPECT_EQ(pages.Grow(0, true).size(), 3u);
  EXPECT_EQ(pages.arena_pages(), 3u);
  EXPECT_TRUE(pages.Grow(0, true).empty());
  EXPECT_TRUE(pages.Grow(0, true).empty());
  EXPECT_EQ(arena.asked, 2) << "asked again within a step";
  pages.BeginStep();
  EXPECT_TRUE(pages.Grow(0, true).empty());
  EXPECT_EQ(arena.asked, 3);
}

TEST_P(KeyPagesTest, BookkeepingCountsAgainstTheBudget) {
  Arena arena(geometry_, 100);
  KeyPages pages(geometry_, 8 * beside_ - 1, kBeside, arena.source());
  EXPECT_TRUE(pages.Grow(7 * beside_, true).empty());
  pages.BeginStep();
  EXPECT_EQ(pages.Grow(2 * beside_, true).size(), 5u);
  EXPECT_TRUE(pages.Grow(2 * beside_, true).empty());
  KeyPages none(geometry_, 1, kBeside, arena.source());
  EXPECT_TRUE(none.Grow(0, true).empty());
}

TEST_P(KeyPagesTest, WhatIsGivenBackIsReleasedAndItsNumberTakenAgain) {
  Arena arena(geometry_, 4);
  KeyPages pages(geometry_, 4 * beside_, kBeside, arena.source());
  const std::vector<uint32_t> taken = pages.Grow(0, true);
  ASSERT_EQ(taken.size(), 4u);
  EXPECT_EQ(pages.ArenaPages(), taken);
  EXPECT_EQ(arena.free(), 0u);
  pages.GiveBack(taken[1]);
  EXPECT_EQ(arena.free(), 1u);
  EXPECT_FALSE(pages.Has(taken[1] * pages.keys_per_page()));
  EXPECT_TRUE(pages.Has(taken[2] * pages.keys_per_page()));
  EXPECT_EQ(pages.slots(), 3 * pages.keys_per_page());
  EXPECT_EQ(pages.Grow(0, true), std::vector<uint32_t>{taken[1]});
  EXPECT_TRUE(pages.Has(taken[1] * pages.keys_per_page()));
}

// Each slot has a place of its own for a key and a value, also in the arena's pages.
TEST_P(KeyPagesTest, PlacesDoNotOverlap) {
  Arena arena(geometry_, 1);
  KeyPages pages(geometry_, 2 * (page_ + beside_), kBeside, arena.source());
  ASSERT_EQ(pages.Grow(0, true).size(), 1u);
  ASSERT_EQ(pages.Grow(0, true).size(), 1u);
  ASSERT_EQ(pages.arena_pages(), 1u);
  const size_t row = geometry_.head_dim * geometry_.element_bytes();
  std::set<const uint8_t*> bytes;
  for (uint32_t slot = 0; slot < pages.slots(); ++slot) {
    const KvPlace place = pages.PlaceOf(slot);
    for (const void* at : {place.k, place.v}) {
      std::memset(const_cast<void*>(at), static_cast<int>(slot), row);  // a sanitizer sees what lies outside
      for (size_t i = 0; i < row; ++i) EXPECT_TRUE(bytes.insert(static_cast<const uint8_t*>(at) + i).second);
    }
  }
  const uint32_t last = pages.keys_per_page() - 1;
  EXPECT_TRUE(pages.SideBySide(std::vector<uint32_t>{last - 1, last}));
  EXPECT_FALSE(pages.SideBySide(std::vector<uint32_t>{last, last + 1}));
  EXPECT_FALSE(pages.SideBySide(std::vector<uint32_t>{0, 2}));
}

INSTANTIATE_TEST_SUITE_P(Types, KeyPagesTest, testing::Values(KvDtype::kBf16, KvDtype::kInt8));

}  // namespace
}  // namespace hga
