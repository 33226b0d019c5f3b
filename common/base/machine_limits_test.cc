#include "common/base/machine_limits.h"

#include <vector>

#include "common/base/fma_loop.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(MachineLimitsTest, SumWordsReadsEveryWord) {
  std::vector<uint64_t> data(24);
  for (size_t i = 0; i < data.size(); ++i) data[i] = uint64_t{1} << i;
  EXPECT_EQ(SumWords(data.data(), data.size()), (uint64_t{1} << 24) - 1);
}

TEST(MachineLimitsTest, FmaLoopCountsWholeVectorsAndDoesTheWork) {
  const FmaWork work = RunFmaLoop(1000);
  const double lanes = work.flops / (2.0 * 10 * 1000);
  EXPECT_GE(lanes, 1);
  EXPECT_EQ(lanes, static_cast<int>(lanes));
  // Each of the ten chains goes from its start s to 1 - (1 - s) * 0.999^1000.
  EXPECT_NEAR(work.sum, 10 - 5.5 * 0.3677, 0.01);
  EXPECT_NEAR(RunFmaLoop(0).sum, 4.5, 1e-5);
}

TEST(MachineLimitsTest, TheNameEndsWithTheCores) {
  const std::string name = MachineName();
  EXPECT_EQ(name.substr(name.size() - 6), " cores");
}

}  // namespace
}  // namespace hga
