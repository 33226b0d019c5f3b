#include "router/index/top_units.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "absl/numeric/bits.h"
#include "common/kv/route_fixture.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// What CutTop and TakeTop choose.
std::vector<uint32_t> Chosen(const std::vector<float>& scores, uint32_t wanted) {
  std::vector<int32_t> work;
  std::vector<uint32_t> chosen;
  const auto count = static_cast<uint32_t>(scores.size());
  TopCut cut = CutTop(scores.data(), count, wanted, &work);
  const uint32_t width = count % 64 == 0 ? 64 : count % 15 == 0 ? 15 : 1, blocks = count / width;
  std::vector<uint64_t> masks(blocks);
  TakeTop(scores.data(), blocks, width, &cut, masks.data());
  for (uint32_t b = 0; b < blocks; ++b) {
    for (uint32_t i = 0; i < width; ++i) {
      if (masks[b] >> i & 1) chosen.push_back(b * width + i);
    }
  }
  return chosen;
}

std::vector<uint32_t> Sorted(const std::vector<float>& scores, uint32_t wanted) {
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < scores.size(); ++i) {
    if (scores[i] > 0) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  order.resize(std::min<size_t>(wanted, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

void CheckAgainstSorting() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (uint32_t count : {1u, 3u, 15u, 16u, 17u, 64u, 65u, 200u, 4096u, 15000u, 131072u}) {
    std::vector<float> spread(count), coarse(count), masses(count);
    for (uint32_t i = 0; i < count; ++i) {
      spread[i] = std::fabs(normal(random));
      coarse[i] = static_cast<float>(random() % 4) / 4;  // ties, and nothing
      masses[i] = std::exp(20 * normal(random) - 40);    // over many magnitudes, some denormal
    }
    for (uint32_t wanted : {0u, 1u, count / 3, count - 1, count, count + 5}) {
      for (const auto& scores : {spread, coarse, masses}) EXPECT_EQ(Chosen(scores, wanted), Sorted(scores, wanted));
    }
  }
}

TEST(TopUnitsTest, EqualsSortingAtEverySize) { WithEachInstructionSet(CheckAgainstSorting); }

TEST(TopUnitsTest, NotANumberAndNegativeScoresAreNeverChosen) {
  const std::vector<float> scores = {std::nanf(""), -1, 0.5f, std::nanf(""), 0, 0.25f};
  EXPECT_EQ(Chosen(scores, 4), (std::vector<uint32_t>{2, 5}));
  EXPECT_EQ(Chosen(scores, 1), (std::vector<uint32_t>{2}));
}

}  // namespace
}  // namespace hga
