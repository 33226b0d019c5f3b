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

void CheckWhatIsKept() {
  std::mt19937 random(2);
  for (uint32_t width : {2u, 8u, 15u, 32u, 64u}) {
    for (uint32_t blocks : {1u, 7u, 300u}) {
      std::vector<float> scores(width * blocks);
      for (float& x : scores) x = static_cast<float>(random() % 5) / 4 - 0.25f;  // some below 0
      scores[width / 2] = std::nanf("");
      std::vector<uint64_t> skip(blocks);
      for (uint64_t& bits : skip) bits = uint64_t{random()} << 32 | random();
      for (const float least : {0.0f, 0.25f, 0.5f, 2.0f}) {
        std::vector<float> kept(scores.size() + kSpareScores), right;
        std::vector<uint32_t> places(kept.size()), right_places;
        for (uint32_t i = 0; i < scores.size(); ++i) {
          if (!(scores[i] > 0 && scores[i] >= least) || (skip[i / width] >> i % width & 1) != 0) continue;
          right.push_back(scores[i]);
          right_places.push_back(i / width * 64 + i % width);
        }
        const uint32_t count = KeepFrom(scores.data(), blocks, width, least, skip.data(), kept.data(), places.data());
        kept.resize(count);
        places.resize(count);
        EXPECT_EQ(kept, right);
        EXPECT_EQ(places, right_places);
      }
    }
  }
}

TEST(TopUnitsTest, KeepsWhatIsNotBelowTheLeastAndNotSkipped) { WithEachInstructionSet(CheckWhatIsKept); }

TEST(TopUnitsTest, AGuessLeavesALittleMoreThanIsWanted) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> scores(131072);
  for (float& x : scores) x = std::exp(5 * normal(random));
  std::vector<int32_t> work;
  for (const uint32_t wanted : {100u, 3000u, 15000u}) {
    const float guess = GuessCut(scores.data(), 131072, wanted, &work);
    const auto left = std::count_if(scores.begin(), scores.end(), [&](float x) { return x >= guess; });
    EXPECT_GT(left, wanted);
    EXPECT_LT(left, 2 * wanted + 4096);
  }
  EXPECT_EQ(GuessCut(scores.data(), 131072, 131072, &work), 0.0f);
}

}  // namespace
}  // namespace hga
