#include "gpu_worker/backend/cpu/workers.h"

#include <atomic>
#include <numeric>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// Both teams, and more threads than most machines that run this have cores.
class WorkersTest : public testing::TestWithParam<bool> {};

TEST_P(WorkersTest, EachItemIsDoneOnceByAThreadOfTheTeam) {
  for (const uint32_t threads : {1u, 2u, 5u}) {
    Workers workers(threads);
    workers.BeginStep(GetParam());
    for (const uint32_t count : {0u, 1u, 2u, 7u, 300u}) {
      std::vector<std::atomic<int>> done(count);
      std::atomic<bool> strange{false};
      workers.Run(count, [&](uint32_t item, uint32_t thread) {
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

// What one job wrote the next one reads, whoever did what: thousands of short jobs, helpers asleep at some of them.
TEST_P(WorkersTest, AJobSeesWhatTheOneBeforeItWrote) {
  Workers workers(4);
  workers.BeginStep(GetParam());
  constexpr uint32_t kItems = 16, kJobs = 20000;
  std::vector<uint64_t> now(kItems), before(kItems, 1);
  for (uint32_t job = 0; job < kJobs; ++job) {
    workers.Run(kItems, [&](uint32_t item, uint32_t) { now[item] = before[item] + before[(item + 1) % kItems] % 7; });
    now.swap(before);
    if (job % 4000 == 0) absl::SleepFor(absl::Milliseconds(2));
  }
  std::vector<uint64_t> expected(kItems, 1), next(kItems);
  for (uint32_t job = 0; job < kJobs; ++job) {
    for (uint32_t i = 0; i < kItems; ++i) next[i] = expected[i] + expected[(i + 1) % kItems] % 7;
    next.swap(expected);
  }
  EXPECT_EQ(before, expected);
}

INSTANTIATE_TEST_SUITE_P(Teams, WorkersTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Decode" : "Prefill"; });

}  // namespace
}  // namespace hga
