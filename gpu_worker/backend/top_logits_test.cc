#include "gpu_worker/backend/top_logits.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace hga {
namespace {

std::vector<uint32_t> Ids(const std::vector<float>& logits, uint32_t count) {
  std::vector<TokenLogit> top;
  AppendTopLogits(logits, count, &top);
  std::vector<uint32_t> ids;
  for (const TokenLogit& t : top) {
    ids.push_back(t.id);
    EXPECT_TRUE(t.logit == logits[t.id] || std::isnan(t.logit));
  }
  return ids;
}

TEST(TopLogitsTest, LargestFirstEqualOnesById) {
  const std::vector<float> logits = {1, 3, -2, 3, 2, 3};
  EXPECT_EQ(Ids(logits, 1), (std::vector<uint32_t>{1}));
  EXPECT_EQ(Ids(logits, 4), (std::vector<uint32_t>{1, 3, 5, 4}));
  EXPECT_EQ(Ids(logits, 64), (std::vector<uint32_t>{1, 3, 5, 4, 0, 2}));
}

TEST(TopLogitsTest, WhatIsNotFiniteComesFirst) {
  for (const float odd : {NAN, INFINITY, -INFINITY}) {
    const std::vector<float> logits = {1, 3, odd, 3, odd};
    EXPECT_EQ(FirstNotFinite(logits), 2u);
    EXPECT_EQ(Ids(logits, 1), (std::vector<uint32_t>{2}));
    EXPECT_EQ(Ids(logits, 3), (std::vector<uint32_t>{2, 4, 1}));
  }
  const std::vector<float> finite = {1, std::numeric_limits<float>::max()};
  EXPECT_EQ(FirstNotFinite(finite), 2u);
}

}  // namespace
}  // namespace hga
