#include "common/kv/unit.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr SummaryForm kForms[] = {SummaryForm::kMean, SummaryForm::kCuboid, SummaryForm::kBox, SummaryForm::kGauss,
                                  SummaryForm::kKmeans};

// Channels of very different sizes, as RoPE's slow ones are.
std::vector<float> Keys(uint32_t count, uint32_t head_dim, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> keys(size_t{count} * head_dim);
  for (size_t i = 0; i < keys.size(); ++i) {
    keys[i] = (normal(random) + 3) * std::exp2(static_cast<int>(i % head_dim % 11) - 5);
  }
  return keys;
}

double Dot(const float* a, const float* b, uint32_t count) {
  double sum = 0;
  for (uint32_t d = 0; d < count; ++d) sum += double{a[d]} * b[d];
  return sum;
}

class UnitTest : public testing::TestWithParam<bool> {
 protected:
  UnitLayout Layout(SummaryForm form, uint32_t head_dim, uint32_t representatives = 1) const {
    return LayoutOf(form, GetParam(), representatives, head_dim);
  }
  std::vector<uint8_t> Make(SummaryForm form, const UnitLayout& layout, const std::vector<float>& keys) const {
    std::vector<uint8_t> unit(layout.bytes(), 0xEE);
    MakeUnit(form, layout, keys.data(), keys.size() / layout.head_dim, unit.data());
    return unit;
  }
};

TEST_P(UnitTest, NoKeyScoresAboveItsBox) {
  size_t close = 0, all = 0;
  for (uint32_t head_dim : {8u, 24u, 64u}) {
    const UnitLayout layout = Layout(SummaryForm::kBox, head_dim);
    for (uint32_t count : {1u, 3u, 16u, 64u}) {
      const auto keys = Keys(count, head_dim, head_dim + count);
      const auto box = Make(SummaryForm::kBox, layout, keys);
      for (uint32_t seed = 0; seed < 20; ++seed) {
        auto query = Keys(1, head_dim, 1000 + seed);
        for (uint32_t d = seed % 3; d < head_dim; d += 2) query[d] = -query[d];
        const double bound = ScoreUnit(SummaryForm::kBox, layout, query.data(), box.data());
        for (uint32_t i = 0; i < count; ++i) {
          ASSERT_GE(bound, Dot(query.data(), &keys[size_t{i} * head_dim], head_dim)) << head_dim << " " << count;
        }
        if (count != 1) continue;
        ++all;
        double size = 0;
        for (uint32_t d = 0; d < head_dim; ++d) size += std::fabs(query[d] * keys[d]);
        close += bound - Dot(query.data(), keys.data(), head_dim) < 0.02 * size;
      }
    }
  }
  if (!GetParam()) {
    EXPECT_EQ(close, all) << "of one key, the bound is that key";
  }
}

TEST_P(UnitTest, ABoxAroundBoxesScoresAtLeastAsHigh) {
  constexpr uint32_t kHeadDim = 64, kBoxes = 4;
  const UnitLayout layout = Layout(SummaryForm::kBox, kHeadDim);
  std::vector<uint8_t> boxes, around(layout.bytes());
  for (uint32_t i = 0; i < kBoxes; ++i) {
    const auto box = Make(SummaryForm::kBox, layout, Keys(16, kHeadDim, i));
    boxes.insert(boxes.end(), box.begin(), box.end());
  }
  MakeBoxAround(layout, boxes.data(), kBoxes, around.data());
  for (uint32_t seed = 0; seed < 50; ++seed) {
    auto query = Keys(1, kHeadDim, 100 + seed);
    for (uint32_t d = seed % 5; d < kHeadDim; d += 3) query[d] = -query[d];
    const double outer = ScoreUnit(SummaryForm::kBox, layout, query.data(), around.data());
    for (uint32_t i = 0; i < kBoxes; ++i) {
      EXPECT_GE(outer, ScoreUnit(SummaryForm::kBox, layout, query.data(), &boxes[i * layout.bytes()]));
    }
  }
}

TEST_P(UnitTest, GaussIsTheLogOfTheMeanExponential) {
  constexpr uint32_t kHeadDim = 8, kCount = 4096;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> keys(kCount * kHeadDim), query(kHeadDim, 0.4f);
  for (float& key : keys) key = 1 + 0.5f * normal(random);
  const UnitLayout layout = Layout(SummaryForm::kGauss, kHeadDim);
  double sum = 0;
  for (uint32_t i = 0; i < kCount; ++i) sum += std::exp(Dot(query.data(), &keys[i * kHeadDim], kHeadDim));
  const auto unit = Make(SummaryForm::kGauss, layout, keys);
  EXPECT_NEAR(ScoreUnit(SummaryForm::kGauss, layout, query.data(), unit.data()), std::log(sum / kCount), 0.03);
}

TEST_P(UnitTest, KmeansFindsClustersThatLieMixed) {
  constexpr uint32_t kHeadDim = 8;
  std::vector<float> keys;
  for (uint32_t i = 0; i < 16; ++i) {
    for (uint32_t d = 0; d < kHeadDim; ++d) keys.push_back(i % 4 == 1 ? -2.0f : 1.0f);
  }
  const UnitLayout layout = Layout(SummaryForm::kKmeans, kHeadDim, 2);
  const auto unit = Make(SummaryForm::kKmeans, layout, keys);
  const std::vector<float> toward(kHeadDim, -0.5f), away(kHeadDim, 0.5f);
  EXPECT_NEAR(ScoreUnit(SummaryForm::kKmeans, layout, toward.data(), unit.data()), 8 + std::log(0.25), 0.05);
  EXPECT_NEAR(ScoreUnit(SummaryForm::kKmeans, layout, away.data(), unit.data()), 4 + std::log(0.75), 0.05);
}

TEST_P(UnitTest, FewerKeysThanClusters) {
  const UnitLayout layout = Layout(SummaryForm::kKmeans, 8, 4);
  const auto unit = Make(SummaryForm::kKmeans, layout, std::vector<float>(2 * 8, 1.0f));
  const std::vector<float> query(8, 1.0f);
  EXPECT_NEAR(ScoreUnit(SummaryForm::kKmeans, layout, query.data(), unit.data()), 8, 0.75);
}

TEST_P(UnitTest, ZeroAndHugeKeysGiveFiniteRecords) {
  for (SummaryForm form : kForms) {
    const UnitLayout layout = Layout(form, 8, form == SummaryForm::kKmeans ? 2 : 1);
    for (float value : {0.0f, 1e-40f, 1e18f}) {
      auto keys = std::vector<float>(5 * 8, value);
      keys[9] = -value;
      const auto unit = Make(form, layout, keys);
      std::vector<double> values(8);
      for (uint32_t r = 0; r < layout.representatives; ++r) {
        for (uint32_t v = 0; v < layout.vectors; ++v) {
          ReadUnit(layout, unit.data(), r, v, values.data());
          for (double x : values) EXPECT_TRUE(std::isfinite(x)) << value;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Precision, UnitTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "int8" : "bf16"; });

}  // namespace
}  // namespace hga
