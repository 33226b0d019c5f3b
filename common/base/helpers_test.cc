#include "common/base/helpers.h"

#include <atomic>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(HelpersTest, EachItemIsDoneOnce) {
  for (const uint32_t threads : {1u, 2u, 6u}) {
    Helpers helpers(threads);
    for (const uint32_t count : {0u, 1u, 2u, 500u}) {
      std::vector<std::atomic<int>> done(count);
      std::atomic<bool> strange{false};
      helpers.Run(count, [&](uint32_t item, uint32_t thread) {
        if (item >= count || thread >= threads) {
          strange = true;
        } else {
          ++done[item];
        }
      });
      EXPECT_FALSE(strange);
      for (const auto& times : done) EXPECT_EQ(times, 1);
    }
  }
}

TEST(HelpersTest, RunReturnsWhenTheLongestItemIsDone) {
  Helpers helpers(3);
  std::atomic<uint32_t> sum{0};
  helpers.Run(50, [&](uint32_t item, uint32_t) {
    if (item == 0) absl::SleepFor(absl::Milliseconds(20));
    sum += item;
  });
  EXPECT_EQ(sum, 49u * 50 / 2);
}

// Helpers that sleep are woken, and one that does come is used: two items that wait for each other.
TEST(HelpersTest, ASleepingHelperComes) {
  Helpers helpers(2);
  absl::SleepFor(absl::Milliseconds(5));
  std::atomic<int> here{0};
  helpers.Run(2, [&](uint32_t, uint32_t) {
    ++here;
    while (here < 2) std::this_thread::yield();
  });
  EXPECT_EQ(here, 2);
}

}  // namespace
}  // namespace hga
