#include "tests/support/patience.h"

#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(PatienceTest, EndsWhereNothingMoves) {
  Patience patience(absl::Seconds(10));
  absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < 10; ++i, now += absl::Seconds(1)) EXPECT_TRUE(patience.Lasts(7, now)) << i;
  EXPECT_FALSE(patience.Lasts(7, now));
}

TEST(PatienceTest, BeginsAnewWithWhatMoves) {
  Patience patience(absl::Seconds(10));
  absl::Time now = absl::UnixEpoch();
  for (uint64_t i = 0; i < 100; ++i, now += absl::Seconds(1)) EXPECT_TRUE(patience.Lasts(i / 8, now)) << i;
}

TEST(PatienceTest, AStopOfTheMachineIsOneStep) {
  Patience patience(absl::Seconds(10));
  const absl::Time now = absl::UnixEpoch();
  EXPECT_TRUE(patience.Lasts(0, now));
  EXPECT_TRUE(patience.Lasts(0, now + absl::Hours(1)));
  EXPECT_TRUE(patience.Lasts(0, now + absl::Hours(2)));
}

}  // namespace
}  // namespace hga
