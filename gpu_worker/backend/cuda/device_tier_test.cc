#include "gpu_worker/backend/cuda/device_tier.h"

#include <map>
#include <random>
#include <set>
#include <tuple>

#include "gtest/gtest.h"

namespace hga {
namespace {

ChunkHash Name(uint32_t chunk) { return HashBytes(std::to_string(chunk)); }

DeviceTier::Place Use(DeviceTier* tier, uint32_t chunk, uint32_t unit, uint32_t layer = 0) {
  return tier->Use(tier->FindChunk(Name(chunk), chunk % 5), layer, unit);
}

TEST(DeviceTierTest, WhatWasPutThereIsFound) {
  DeviceTier tier({4, 2, 8});
  const auto first = Use(&tier, 1, 3);
  EXPECT_FALSE(first.hit);
  EXPECT_TRUE(Use(&tier, 1, 3).hit);
  EXPECT_EQ(Use(&tier, 1, 3).slot, first.slot);
  EXPECT_FALSE(Use(&tier, 1, 4).hit);
  EXPECT_FALSE(Use(&tier, 1, 3, 1).hit);
  EXPECT_FALSE(Use(&tier, 2, 3).hit);
  EXPECT_TRUE(Use(&tier, 1, 3).hit);
  EXPECT_EQ(tier.chunks(), 2u);
}

TEST(DeviceTierTest, WhatThisStepOrTheLastUsedStays) {
  DeviceTier tier({2, 1, 8});
  ASSERT_NE(Use(&tier, 1, 0).slot, DeviceTier::kNoSlot);
  ASSERT_NE(Use(&tier, 2, 0).slot, DeviceTier::kNoSlot);
  EXPECT_EQ(Use(&tier, 3, 0).slot, DeviceTier::kNoSlot);
  tier.BeginStep();
  EXPECT_EQ(Use(&tier, 3, 0).slot, DeviceTier::kNoSlot);
  EXPECT_TRUE(Use(&tier, 1, 0).hit);
  tier.BeginStep();
  EXPECT_NE(Use(&tier, 3, 0).slot, DeviceTier::kNoSlot);  // in the place of 2
  EXPECT_EQ(Use(&tier, 4, 0).slot, DeviceTier::kNoSlot);
  EXPECT_TRUE(Use(&tier, 1, 0).hit);
  EXPECT_FALSE(Use(&tier, 2, 0).hit);
}

// More units than slots, the same ones in each step: some of them stay for good.
TEST(DeviceTierTest, ATierSmallerThanAStepKeepsAPartOfIt) {
  DeviceTier tier({10, 1, 4});
  int hits = 0;
  for (int step = 0; step < 20; ++step) {
    tier.BeginStep();
    for (uint32_t chunk = 0; chunk < 20; ++chunk) hits += Use(&tier, chunk, 0).hit;
  }
  EXPECT_EQ(hits, 19 * 10);
}

TEST(DeviceTierTest, NoSlotsMeanNoTier) {
  DeviceTier tier({0, 1, 8});
  EXPECT_EQ(Use(&tier, 1, 0).slot, DeviceTier::kNoSlot);
}

TEST(DeviceTierTest, ChunksThatHaveNothingHereAreForgotten) {
  DeviceTier tier({2, 1, 1});
  for (uint32_t chunk = 0; chunk < 1000; ++chunk) {
    tier.BeginStep();
    Use(&tier, chunk, 0);
    EXPECT_LE(tier.chunks(), 4u);
  }
}

// Against a map of what each slot must hold, with chunks that come and go.
TEST(DeviceTierTest, NoTwoUnitsShareASlot) {
  std::mt19937 random(7);
  DeviceTier tier({37, 3, 4});
  using Unit = std::tuple<uint32_t, uint32_t, uint32_t>;
  std::map<uint32_t, Unit> held;  // by slot
  uint64_t hits = 0, refused = 0;
  std::set<uint32_t> in_use, in_use_before;
  for (int step = 0; step < 4000; ++step) {
    tier.BeginStep();
    in_use_before.swap(in_use);
    in_use.clear();
    for (int i = 0; i < 20; ++i) {
      const Unit unit{random() % 6 * (random() % 6), random() % 4, random() % 3};
      const auto place = Use(&tier, std::get<0>(unit), std::get<1>(unit), std::get<2>(unit));
      refused += place.slot == DeviceTier::kNoSlot;
      if (place.slot == DeviceTier::kNoSlot) continue;
      ASSERT_LT(place.slot, 37u);
      ASSERT_EQ(place.hit, held.count(place.slot) > 0 && held[place.slot] == unit);
      if (!place.hit) {
        ASSERT_EQ(in_use.count(place.slot) + in_use_before.count(place.slot), 0u) << "thrown out while it is used";
        for (const auto& [slot, other] : held) ASSERT_TRUE(other != unit || slot == place.slot);
      }
      held[place.slot] = unit;
      in_use.insert(place.slot);
      hits += place.hit;
    }
  }
  EXPECT_GT(hits, 10000u);
  EXPECT_GT(refused, 50u);
}

}  // namespace
}  // namespace hga
