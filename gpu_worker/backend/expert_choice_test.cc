#include "gpu_worker/backend/expert_choice.h"

#include <cmath>

#include "gtest/gtest.h"

namespace hga {
namespace {

ModelConfig Config(bool normalize) {
  ModelConfig c;
  c.experts = 4;
  c.experts_per_token = 2;
  c.normalize_expert_weights = normalize;
  return c;
}

TEST(ExpertChoiceTest, BestExpertsWithWeightsThatSumToOne) {
  const double logits[] = {0, std::log(3.0), -5, std::log(2.0)};
  const auto shares = ChooseExperts(Config(true), logits);
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_EQ(shares[0].expert, 1u);
  EXPECT_EQ(shares[1].expert, 3u);
  EXPECT_DOUBLE_EQ(shares[0].weight, 0.6);
  EXPECT_DOUBLE_EQ(shares[1].weight, 0.4);
}

TEST(ExpertChoiceTest, WithoutNormalisingTheSoftmaxOverAllStays) {
  const double logits[] = {0, std::log(3.0), -1000, std::log(2.0)};
  const auto shares = ChooseExperts(Config(false), logits);
  EXPECT_DOUBLE_EQ(shares[0].weight, 0.5);
  EXPECT_DOUBLE_EQ(shares[1].weight, 2.0 / 6);
}

TEST(ExpertChoiceTest, EqualWeightsTakeTheLowerExpert) {
  const double logits[] = {1, 1, 1, 1};
  const auto shares = ChooseExperts(Config(true), logits);
  EXPECT_EQ(shares[0].expert, 0u);
  EXPECT_EQ(shares[1].expert, 1u);
}

}  // namespace
}  // namespace hga
