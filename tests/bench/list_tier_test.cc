#include "tests/bench/list_tier.h"

#include <map>
#include <random>
#include <set>
#include <utility>

#include "gtest/gtest.h"

namespace hga {
namespace {

BlockName Block(uint32_t chunk, uint32_t layer = 0) {
  BlockName name;
  name.chunk.bytes[0] = static_cast<uint8_t>(chunk);
  name.chunk.bytes[1] = static_cast<uint8_t>(chunk >> 8);
  name.layer = layer;
  return name;
}

TEST(ListTierTest, WhatWasPutThereIsFound) {
  ListTier tier({4, 8, TierPolicy::kSieve});
  const auto first = tier.Use(Block(1), 3, 0);
  EXPECT_FALSE(first.hit);
  EXPECT_TRUE(tier.Use(Block(1), 3, 0).hit);
  EXPECT_EQ(tier.Use(Block(1), 3, 0).slot, first.slot);
  EXPECT_FALSE(tier.Use(Block(1), 4, 0).hit);
  EXPECT_FALSE(tier.Use(Block(1, 1), 3, 0).hit);
  EXPECT_EQ(tier.blocks(), 2u);
}

TEST(ListTierTest, WhatMayStillBeReadStays) {
  for (const TierPolicy policy : {TierPolicy::kFifo, TierPolicy::kLru, TierPolicy::kSieve, TierPolicy::kLruByStep}) {
    ListTier tier({2, 8, policy});
    ASSERT_NE(tier.Use(Block(1), 0, 5).slot, ListTier::kNoSlot);
    ASSERT_NE(tier.Use(Block(2), 0, 5).slot, ListTier::kNoSlot);
    EXPECT_EQ(tier.Use(Block(3), 0, 5).slot, ListTier::kNoSlot);
    EXPECT_EQ(tier.Use(Block(3), 0, 6).slot, ListTier::kNoSlot);
    EXPECT_EQ(tier.blocks(), 2u);
    for (int steps = 0; steps < 2; ++steps) tier.BeginStep(7);
    EXPECT_NE(tier.Use(Block(3), 0, 7).slot, ListTier::kNoSlot);
    EXPECT_EQ(tier.blocks(), 2u);
  }
}

TEST(ListTierTest, PoliciesThrowOutWhatTheySay) {
  const auto survivor = [](TierPolicy policy) {
    ListTier tier({2, 1, policy});
    tier.Use(Block(1), 0, 0);
    tier.Use(Block(2), 0, 2);
    tier.Use(Block(1), 0, 4);  // used again
    tier.Use(Block(3), 0, 6);  // throws out 1 or 2
    return tier.Use(Block(1), 0, 8).hit;
  };
  EXPECT_FALSE(survivor(TierPolicy::kFifo));
  EXPECT_TRUE(survivor(TierPolicy::kLru));
  EXPECT_TRUE(survivor(TierPolicy::kSieve));
}

// More units than slots, the same ones in each step: some of them stay for good.
TEST(ListTierTest, ATierSmallerThanAStepKeepsAPartOfIt) {
  const auto hits_of = [](TierPolicy policy) {
    ListTier tier({10, 4, policy});
    int hits = 0;
    uint64_t batch = 0;
    for (int step = 0; step < 20; ++step) {
      tier.BeginStep(batch);
      for (uint32_t unit = 0; unit < 20; ++unit) {
        hits += tier.Use(Block(unit), 0, batch).hit;
        batch += 2;
      }
    }
    return hits;
  };
  EXPECT_EQ(hits_of(TierPolicy::kLru), 0);
  EXPECT_EQ(hits_of(TierPolicy::kLruByStep), 19 * 10);
}

TEST(ListTierTest, WhatAStepNoLongerUsesMakesRoom) {
  ListTier tier({2, 1, TierPolicy::kLruByStep});
  for (uint32_t step = 0; step < 6; ++step) {
    tier.BeginStep(step * 10);
    EXPECT_EQ(tier.Use(Block(1), 0, step * 10).hit, step > 0);
    // Block 2 in the first steps, then 3: that finds room once nobody has used 2 for two steps.
    EXPECT_EQ(tier.Use(Block(step < 2 ? 2 : 3), 0, step * 10 + 5).hit, step == 1 || step > 3) << step;
  }
}

TEST(ListTierTest, NoSlotsMeanNoTier) {
  ListTier tier({0, 8, TierPolicy::kLru});
  EXPECT_EQ(tier.Use(Block(1), 0, 9).slot, ListTier::kNoSlot);
}

// Against a map of what each slot must hold, with blocks that come and go.
TEST(ListTierTest, NoTwoUnitsShareASlot) {
  for (const TierPolicy policy : {TierPolicy::kFifo, TierPolicy::kLru, TierPolicy::kSieve, TierPolicy::kLruByStep}) {
    std::mt19937 random(7);
    ListTier tier({37, 4, policy});
    std::map<uint32_t, std::pair<uint32_t, uint32_t>> held;  // slot to unit
    uint64_t hits = 0;
    for (uint64_t batch = 0; batch < 4000; ++batch) {
      std::set<uint32_t> in_use;
      tier.BeginStep(batch);
      for (int i = 0; i < 5; ++i) {
        const uint32_t chunk = random() % 6 * (random() % 6), unit = random() % 4;
        const auto place = tier.Use(Block(chunk), unit, batch);
        ASSERT_NE(place.slot, ListTier::kNoSlot);
        const std::pair<uint32_t, uint32_t> key{chunk, unit};
        ASSERT_EQ(place.hit, held.count(place.slot) > 0 && held[place.slot] == key);
        if (!place.hit) {
          ASSERT_EQ(in_use.count(place.slot), 0u) << "thrown out while it is used";
          for (const auto& [slot, other] : held) ASSERT_TRUE(other != key || slot == place.slot);
        }
        held[place.slot] = key;
        in_use.insert(place.slot);
        hits += place.hit;
      }
    }
    EXPECT_GT(hits, 1000u);
    EXPECT_LE(tier.blocks(), 37u);
  }
}

}  // namespace
}  // namespace hga
