#include "gpu_worker/backend/cpu/workers.h"

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// Both teams, and more threads than most machines that run this have cores.
class WorkersTest : public testing::TestWithParam<bool> {};

// What one job wrote the next one reads, whoever did what: thousands of short jobs, helpers asleep at some of them.
TEST_P(WorkersTest, AJobSeesWhatTheOneBeforeItWrote) {
  Workers workers(4);
  workers.BeginStep(GetParam());
  constexpr uint32_t kItems = 16, kJobs = 20000;
  std::vector<uint64_t> now(kItems), before(kItems, 1);
  std::atomic<bool> strange{false};
  for (uint32_t job = 0; job < kJobs; ++job) {
    workers.Run(kItems, [&](uint32_t item, uint32_t thread) {
      if (thread >= workers.threads()) strange = true;
      now[item] = before[item] + before[(item + 1) % kItems] % 7;
    });
    now.swap(before);
    if (job % 4000 == 0) absl::SleepFor(absl::Milliseconds(2));
  }
  std::vector<uint64_t> expected(kItems, 1), next(kItems);
  for (uint32_t job = 0; job < kJobs; ++job) {
    for (uint32_t i = 0; i < kItems; ++i) next[i] = expected[i] + expected[(i + 1) % kItems] % 7;
    next.swap(expected);
  }
  EXPECT_EQ(before, expected);
  EXPECT_FALSE(strange);
}

TEST_P(WorkersTest, EachOfTheNeighboursIsDoneOnce) {
  Workers workers(4);
  workers.BeginStep(GetParam());
  for (const uint32_t count : {0u, 1u, 3u, 4u, 7u, 1000u}) {
    for (int again = 0; again < 200; ++again) {
      std::vector<std::atomic<int>> done(count);
      workers.RunNeighbours(count, [&](uint32_t item, uint32_t) { ++done[item]; });
      for (const auto& times : done) ASSERT_EQ(times, 1) << count;
    }
  }
}

// Whoever is done with its share takes what another has left, here all but one item of each.
TEST_P(WorkersTest, NobodyWaitsForAShare) {
  Workers workers(3);
  workers.BeginStep(GetParam());
  std::atomic<uint32_t> done{0};
  constexpr uint32_t kItems = 30;
  workers.RunNeighbours(kItems, [&](uint32_t item, uint32_t) {
    // Ends once all others are done, so they must be done by others.
    while (item == 0 && done.load() < kItems - 1) std::this_thread::yield();
    ++done;
  });
  EXPECT_EQ(done, kItems);
}

INSTANTIATE_TEST_SUITE_P(Teams, WorkersTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "OpenMP" : "Helpers"; });

}  // namespace
}  // namespace hga
