#include "kv_store/tier/packed_cache.h"

#include <utility>

#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint64_t kBytes = 1000;
constexpr uint64_t kCharge = kBytes + PackedCache::kEntryOverhead;

BlockName Name(uint32_t i) { return {HashBytes("chunk"), i}; }

PackedCache::Value Value() {
  std::string bytes;
  bytes.reserve(kBytes);
  bytes.assign(kBytes, 'v');
  return std::make_shared<const std::string>(std::move(bytes));
}

TEST(PackedCache, KeepsItsBudgetToTheByte) {
  PackedCache cache(10 * kCharge);
  for (uint32_t i = 0; i < 10; ++i) cache.Put(Name(i), Value());
  EXPECT_EQ(cache.stats().bytes, 10 * kCharge);
  EXPECT_EQ(cache.stats().evictions, 0u);
  for (uint32_t i = 10; i < 100; ++i) {
    cache.Put(Name(i), Value());
    if (i % 3 == 0) cache.Get(Name(i - 1));
    EXPECT_LE(cache.stats().bytes, cache.budget_bytes());
  }
  EXPECT_EQ(cache.stats().evictions, 90u);
  for (uint32_t i = 0; i < 100; ++i) cache.Erase(Name(i));
  EXPECT_EQ(cache.stats().bytes, 0u);
  EXPECT_EQ(cache.stats().blocks, 0u);
}

TEST(PackedCache, WhatIsAskedForOutlivesAScan) {
  PackedCache cache(10 * kCharge);
  for (uint32_t i = 0; i < 5; ++i) cache.Put(Name(i), Value());
  for (uint32_t i = 0; i < 5; ++i) ASSERT_NE(cache.Get(Name(i)), nullptr);
  for (uint32_t i = 100; i < 1000; ++i) cache.Put(Name(i), Value());
  for (uint32_t i = 0; i < 5; ++i) EXPECT_NE(cache.Get(Name(i)), nullptr) << i;
}

// Protection is no trap: what was hot once goes when other blocks are.
TEST(PackedCache, WhatWasHotMakesRoom) {
  PackedCache cache(10 * kCharge);
  for (uint32_t i = 0; i < 100; ++i) {
    cache.Put(Name(i), Value());
    ASSERT_NE(cache.Get(Name(i)), nullptr);
  }
  EXPECT_EQ(cache.Get(Name(0)), nullptr);
  EXPECT_NE(cache.Get(Name(99)), nullptr);
  EXPECT_EQ(cache.stats().blocks, 10u);
}

TEST(PackedCache, ReplacesAndRefusesWhatIsTooLarge) {
  PackedCache cache(kCharge);
  cache.Put(Name(1), Value());
  cache.Get(Name(1));
  cache.Put(Name(1), Value());
  EXPECT_EQ(cache.stats().blocks, 1u);
  EXPECT_EQ(cache.stats().bytes, kCharge);
  cache.Put(Name(2), std::make_shared<const std::string>(std::string(10 * kBytes, 'x')));
  EXPECT_EQ(cache.Get(Name(2)), nullptr);
  EXPECT_NE(cache.Get(Name(1)), nullptr);
}

}  // namespace
}  // namespace hga
