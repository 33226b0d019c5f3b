// Seeds of the simulation. One of them by hand: bazel run -c opt //tests/fault:simulation -- --seed=N --trace
#include "tests/fault/simulation.h"

#include "common/base/log.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(SimulationTest, TwoHundredSeeds) {
  SetLogLevel("error");
  SimulationCounts counts;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SimulationOptions options;
    options.seed = seed;
    const std::string wrong = RunSimulation(options, &counts);
    EXPECT_EQ(wrong, "") << "again with: bazel run -c opt //tests/fault:simulation -- --seed=" << seed << " --trace";
  }
  // All that is to be survived did happen.
  EXPECT_GT(counts.commits, 1000u);
  EXPECT_GT(counts.durable, 1000u);
  EXPECT_GT(counts.fetched_ram, 1000u);
  EXPECT_GT(counts.fetched_disk, 300u);
  EXPECT_GT(counts.fetched_packed, 100u);
  EXPECT_GT(counts.reads_of_heads, 100u);
  EXPECT_GT(counts.given_up, 30u);
  EXPECT_GT(counts.data_loss, 30u);
  EXPECT_GT(counts.failed_writes, 500u);
  EXPECT_GT(counts.damaged_blocks, 100u);
  EXPECT_GT(counts.refused, 100u);
  EXPECT_GT(counts.crashes, 100u);
  EXPECT_GT(counts.restarts, 100u);
}

}  // namespace
}  // namespace hga
