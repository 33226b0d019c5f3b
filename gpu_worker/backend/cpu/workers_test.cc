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

INSTANTIATE_TEST_SUITE_P(Teams, WorkersTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "OpenMP" : "Helpers"; });

}  // namespace
}  // namespace hga
