#include "router/index/score.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

// The plain way. attended: empty, or one per head.
std::vector<double> Pooled(Pooling pooling, const std::vector<float>& scores, const std::vector<float>& attended,
                           uint32_t heads, uint32_t count, size_t stride) {
  const auto softmax = [&](std::vector<double> row, double besides) {
    const double top = *std::max_element(row.begin(), row.end());
    double sum = attended.empty() ? 0 : std::exp(besides - top);
    for (double& x : row) sum += x = RoughExp(static_cast<float>(x - top));
    for (double& x : row) x /= sum;
    return row;
  };
  std::vector<double> pooled(count);
  double mean_besides = 0;
  for (uint32_t h = 0; h < heads; ++h) {
    const double besides = attended.empty() ? 0 : attended[h];
    mean_besides += besides / heads;
    std::vector<double> row(scores.begin() + h * stride, scores.begin() + h * stride + count);
    if (pooling != Pooling::kSumLogits) row = softmax(row, besides);
    for (uint32_t i = 0; i < count; ++i) {
      pooled[i] = pooling == Pooling::kMaxSoftmax ? std::max(pooled[i], row[i]) : pooled[i] + row[i] / heads;
    }
  }
  return pooling == Pooling::kSumLogits ? softmax(pooled, mean_besides) : pooled;
}

TEST(ScoreTest, FastEqualsPlainLoops) { WithEachInstructionSet(CheckAgainstPlainLoops); }

void CheckPoolingAgainstPlainLoops() {
  constexpr size_t kStride = 128;
  for (Pooling pooling : {Pooling::kMeanSoftmax, Pooling::kMaxSoftmax, Pooling::kSumLogits}) {
    for (uint32_t heads : {1u, 2u, 3u, 4u, 5u, 9u}) {
      for (uint32_t count : {1u, 7u, 64u, 100u, 128u}) {
        for (bool besides : {false, true}) {
          auto scores = RandomFloats(heads * kStride, heads + count);
          for (float& score : scores) score *= 4;
          const auto attended = RandomFloats(besides ? heads : 0, 5);
          const auto expected = Pooled(pooling, scores, attended, heads, count, kStride);
          std::vector<float> pooled(kStride);
          PoolHeads(pooling, scores.data(), heads, count, kStride, besides ? attended.data() : nullptr, pooled.data());
          for (uint32_t i = 0; i < count; ++i) ASSERT_NEAR(pooled[i], expected[i], 1e-4) << heads << " " << count;
        }
      }
    }
  }
}

TEST(ScoreTest, PoolingEqualsPlainLoops) { WithEachInstructionSet(CheckPoolingAgainstPlainLoops); }

TEST(ScoreTest, PoolingByPartsIsTheSame) {
  constexpr uint32_t kHeads = 10, kCount = 100;
  constexpr size_t kStride = 128;
  for (Pooling pooling : {Pooling::kMeanSoftmax, Pooling::kMaxSoftmax}) {
    auto scores = RandomFloats(kHeads * kStride, 3), parts = scores;
    const auto attended = RandomFloats(kHeads, 5);
    std::vector<float> whole(kStride), pooled(kStride);
    PoolHeads(pooling, scores.data(), kHeads, kCount, kStride, attended.data(), whole.data());
    for (uint32_t first = 0; first < kHeads; first += kPooledAtOnce) {
      PoolSomeHeads(pooling, parts.data() + first * kStride, first, std::min(kPooledAtOnce, kHeads - first), kHeads,
                    kCount, kStride, attended.data() + first, pooled.data());
    }
    EXPECT_EQ(pooled, whole);
  }
}

// Two heads want different units: the mean takes both, the summed logits what neither minds.
TEST(ScoreTest, PoolingsDiffer) {
  const auto best = [](Pooling pooling) {
    std::vector<float> scores(2 * 64, 0.0f), pooled(64);
    scores[0] = 10, scores[64] = -30;           // the first head's
    scores[1] = -30, scores[65] = 9;            // the second head's
    scores[2] = scores[66] = 6;                 // both know it
    PoolHeads(pooling, scores.data(), 2, 3, 64, nullptr, pooled.data());
    return std::max_element(pooled.begin(), pooled.begin() + 3) - pooled.begin();
  };
  EXPECT_EQ(best(Pooling::kSumLogits), 2);
  EXPECT_EQ(best(Pooling::kMaxSoftmax), 0);
  EXPECT_EQ(best(Pooling::kMeanSoftmax), 0);
}

}  // namespace
}  // namespace hga
