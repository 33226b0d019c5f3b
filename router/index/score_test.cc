#include "router/index/score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/kv/route_fixture.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

std::vector<float> RandomFloats(size_t count, uint32_t seed) {
  std::vector<float> values;
  for (bf16 x : RandomBf16(count, seed)) values.push_back(ToFloat(x));
  return values;
}

// Every form and precision, for numbers of heads, units and head sizes that fill no vector.
void CheckAgainstPlainLoops() {
  constexpr uint32_t kCount = 5, kKeys = 16, kStride = 8;
  for (SummaryForm form : {SummaryForm::kMean, SummaryForm::kCuboid, SummaryForm::kBox, SummaryForm::kGauss,
                           SummaryForm::kKmeans}) {
    for (bool int8 : {false, true}) {
      for (uint32_t head_dim : {8u, 24u, 64u, 80u, 128u, 256u}) {
        const UnitLayout layout = LayoutOf(form, int8, form == SummaryForm::kKmeans ? 3 : 1, head_dim);
        std::vector<uint8_t> units(kCount * layout.bytes());
        for (uint32_t i = 0; i < kCount; ++i) {
          const auto keys = RandomFloats(kKeys * head_dim, i);
          MakeUnit(form, layout, keys.data(), kKeys, &units[i * layout.bytes()]);
        }
        for (uint32_t heads : {1u, 2u, 3u, 4u, 7u, 8u, 16u}) {
          const auto queries = RandomFloats(heads * head_dim, heads);
          std::vector<float> weights(queries.size() * layout.vectors), scores(heads * kStride);
          WeighQueries(queries.data(), heads, layout, SecondWeightOf(form), weights.data());
          ScoreUnits({weights.data(), heads, head_dim, layout.vectors}, layout, units.data(), kCount, scores.data(),
                     kStride);
          for (uint32_t h = 0; h < heads; ++h) {
            for (uint32_t i = 0; i < kCount; ++i) {
              const double expected = ScoreUnit(form, layout, &queries[h * head_dim], &units[i * layout.bytes()]);
              ASSERT_NEAR(scores[h * kStride + i], expected, 1e-4 * head_dim) << int(form) << " " << head_dim;
            }
          }
        }
      }
    }
  }
}

double NumberOf(uint16_t weight) { return ToFloat(bf16{weight}); }

// The plain way.
std::vector<double> Pooled(Pooling pooling, const std::vector<uint16_t>& weights, const std::vector<float>& besides,
                           uint32_t count, size_t stride) {
  const size_t heads = besides.size();
  const auto softmax = [](std::vector<double> row, double beside) {
    const double sum = std::accumulate(row.begin(), row.end(), beside);
    for (double& x : row) x /= sum;
    return row;
  };
  std::vector<double> pooled(count);
  for (uint32_t h = 0; h < heads; ++h) {
    std::vector<double> row(count);
    for (uint32_t i = 0; i < count; ++i) {
      const uint16_t weight = weights[h * stride + i];
      row[i] = pooling == Pooling::kSumLogits ? weight : NumberOf(weight);
    }
    if (pooling != Pooling::kSumLogits) row = softmax(row, besides[h]);
    for (uint32_t i = 0; i < count; ++i) {
      pooled[i] = pooling == Pooling::kMaxSoftmax ? std::max(pooled[i], row[i]) : pooled[i] + row[i] / heads;
    }
  }
  if (pooling != Pooling::kSumLogits) return pooled;
  for (double& x : pooled) x = NumberOf(static_cast<uint16_t>(std::floor(x + 0.5)));
  return softmax(pooled, *std::min_element(besides.begin(), besides.end()));
}

// All heads at once.
void PoolHeads(Pooling pooling, std::vector<uint16_t>* weights, uint32_t heads, uint32_t count, size_t stride,
               const float* besides, float* pooled) {
  std::vector<float> parts(heads);
  MakeParts(pooling, weights->data(), heads, heads, count, stride, besides, parts.data());
  PoolSomeHeads(pooling, weights->data(), 0, heads, count, stride, parts.data(), pooled);
}

// Weights of [heads][stride], of random scores; zeros behind `count`.
std::vector<uint16_t> RandomWeights(uint32_t heads, uint32_t count, size_t stride, uint32_t seed) {
  std::vector<uint16_t> weights(heads * stride);
  for (uint32_t h = 0; h < heads; ++h) {
    auto scores = RandomFloats(stride, seed + h);
    for (float& score : scores) score *= 4;
    WeighScores(scores.data(), count, 1.0f, &weights[h * stride]);
  }
  return weights;
}

TEST(ScoreTest, FastEqualsPlainLoops) { WithEachInstructionSet(CheckAgainstPlainLoops); }

void CheckWeights() {
  std::vector<float> scores = {0,   0.001f, -0.001f, 1,   -1,       20,       -20,      69,
                               -86, -88,    -200,    70,  3e38f, -3e38f, INFINITY, -INFINITY, NAN};
  const size_t count = scores.size();
  scores.resize(32);
  for (const float reference : {0.0f, 7.25f}) {
    std::vector<uint16_t> weights(32, 1);
    WeighScores(scores.data(), count, reference, weights.data());
    for (size_t i = 0; i < 32; ++i) {
      EXPECT_EQ(weights[i], i < count ? WeightOf(scores[i], reference) : 0) << i;
      const double exact = std::exp(double{scores[i]} - reference);
      if (i < count && exact > 2e-38 && exact < 1e30) {
        EXPECT_NEAR(NumberOf(weights[i]), exact, 0.035 * exact) << i;
      }
    }
    EXPECT_EQ(weights[14], kLargestWeight);
    EXPECT_EQ(weights[15], 0);
    EXPECT_EQ(weights[16], 0);
  }
}

TEST(ScoreTest, WeightsAreExponentialsAndNeverOutOfRange) { WithEachInstructionSet(CheckWeights); }

void CheckPoolingAgainstPlainLoops() {
  constexpr size_t kStride = 128;
  for (Pooling pooling : {Pooling::kMeanSoftmax, Pooling::kMaxSoftmax, Pooling::kSumLogits}) {
    for (uint32_t heads : {1u, 2u, 3u, 4u, 5u, 9u}) {
      for (uint32_t count : {1u, 7u, 64u, 100u, 128u}) {
        for (const float beside : {0.0f, 1.0f}) {
          auto weights = RandomWeights(heads, count, kStride, heads + count);
          const std::vector<float> besides(heads, beside);
          const auto expected = Pooled(pooling, weights, besides, count, kStride);
          std::vector<float> pooled(kStride);
          PoolHeads(pooling, &weights, heads, count, kStride, besides.data(), pooled.data());
          for (uint32_t i = 0; i < count; ++i) ASSERT_NEAR(pooled[i], expected[i], 1e-4) << heads << " " << count;
        }
      }
    }
  }
}

TEST(ScoreTest, PoolingEqualsPlainLoops) { WithEachInstructionSet(CheckPoolingAgainstPlainLoops); }

// Sums have the same order on all CPUs whose vectors fuse products.
TEST(ScoreTest, SharesAreTheSameOnAllInstructionSetsThatFuse) {
  const auto weights = RandomWeights(3, 1000, 1024, 1);
  const std::vector<float> besides(3, 1.0f);
  std::vector<float> first;
  WithEachInstructionSet([&] {
    if (!FusesProducts()) return;
    auto copy = weights;
    std::vector<float> pooled(1024);
    PoolHeads(Pooling::kMeanSoftmax, &copy, 3, 1000, 1024, besides.data(), pooled.data());
    if (first.empty()) first = pooled;
    EXPECT_EQ(pooled, first);
  });
}

TEST(ScoreTest, WeightsOfNothingGiveNoShares) {
  std::vector<uint16_t> weights(128);
  std::vector<float> pooled(64, 1.0f);
  const float besides[2] = {0, 0};
  PoolHeads(Pooling::kMeanSoftmax, &weights, 2, 60, 64, besides, pooled.data());
  EXPECT_EQ(pooled, std::vector<float>(64, 0.0f));
}

TEST(ScoreTest, PoolingByPartsIsTheSame) {
  constexpr uint32_t kHeads = 10, kCount = 100;
  constexpr size_t kStride = 128;
  for (Pooling pooling : {Pooling::kMeanSoftmax, Pooling::kMaxSoftmax}) {
    auto weights = RandomWeights(kHeads, kCount, kStride, 3);
    const std::vector<float> besides(kHeads, 1.0f);
    std::vector<float> whole(kStride), pooled(kStride);
    PoolHeads(pooling, &weights, kHeads, kCount, kStride, besides.data(), whole.data());
    for (uint32_t first = 0; first < kHeads; first += kPooledAtOnce) {
      const uint32_t some = std::min(kPooledAtOnce, kHeads - first);
      float parts[kPooledAtOnce];
      MakeParts(pooling, &weights[first * kStride], some, kHeads, kCount, kStride, &besides[first], parts);
      PoolSomeHeads(pooling, &weights[first * kStride], first, some, kCount, kStride, parts, pooled.data());
    }
    EXPECT_EQ(pooled, whole);
  }
}

// Two heads want different units: the mean takes both, the summed logits what neither minds.
TEST(ScoreTest, PoolingsDiffer) {
  const auto best = [](Pooling pooling) {
    std::vector<float> scores(2 * 64, 0.0f), pooled(64);
    std::vector<uint16_t> weights(2 * 64);
    scores[0] = 10, scores[64] = -30;           // the first head's
    scores[1] = -30, scores[65] = 9;            // the second head's
    scores[2] = scores[66] = 6;                 // both know it
    for (uint32_t h = 0; h < 2; ++h) WeighScores(&scores[h * 64], 3, 10, &weights[h * 64]);
    const float besides[2] = {0, 0};
    PoolHeads(pooling, &weights, 2, 3, 64, besides, pooled.data());
    return std::max_element(pooled.begin(), pooled.begin() + 3) - pooled.begin();
  };
  EXPECT_EQ(best(Pooling::kSumLogits), 2);
  EXPECT_EQ(best(Pooling::kMaxSoftmax), 0);
  EXPECT_EQ(best(Pooling::kMeanSoftmax), 0);
}

}  // namespace
}  // namespace hga
