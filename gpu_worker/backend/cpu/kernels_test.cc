#include "gpu_worker/backend/cpu/kernels.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gpu_worker/backend/cpu/random_floats_test.h"
#include "gpu_worker/model/row_quantizer.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(KernelsTest, FastDequantizationIsExact) {
  for (TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16, TensorType::kQ4_0, TensorType::kQ4_1,
                          TensorType::kQ5_0, TensorType::kQ5_1, TensorType::kQ8_0, TensorType::kQ4_K,
                          TensorType::kQ5_K, TensorType::kQ6_K}) {
    constexpr uint32_t kCols = 768;
    std::mt19937 random(1);
    const auto row = RandomRow(type, kCols, 1, &random);
    std::vector<float> expected(kCols), actual(kCols);
    DequantizeRow(type, row.data(), kCols, expected.data());
    FastDequantizeRow(type, row.data(), kCols, actual.data());
    for (uint32_t i = 0; i < kCols; ++i) {
      // scale * q + offset may be fused: one rounding less.
      EXPECT_NEAR(actual[i], expected[i], 1e-6f) << TensorTypeName(type) << " at " << i;
    }
  }
}

TEST(KernelsTest, DotsDoNotDependOnTheNumberOfRows) {
  for (uint32_t cols : {32u, 64u, 96u, 576u, 1536u}) {
    const auto row = Random(cols, 2), x = Random(5 * cols, 3);
    float together[5], alone;
    DotRows(row.data(), cols, x.data(), cols, 5, together);
    for (int r = 0; r < 5; ++r) {
      DotRows(row.data(), cols, &x[r * cols], cols, 1, &alone);
      EXPECT_EQ(together[r], alone);
      double expected = 0;
      for (uint32_t i = 0; i < cols; ++i) expected += double{row[i]} * x[r * cols + i];
      EXPECT_NEAR(alone, expected, 1e-4 * std::sqrt(cols));
    }
  }
}

TEST(KernelsTest, Bf16RoundTrips) {
  const auto in = Random(77, 4);
  std::vector<bf16> rounded(77);
  std::vector<float> back(77);
  FloatsToBf16(in.data(), in.size(), rounded.data());
  Bf16ToFloats(rounded.data(), rounded.size(), back.data());
  for (size_t i = 0; i < in.size(); ++i) {
    EXPECT_EQ(rounded[i].bits, ToBf16(in[i]).bits);
    EXPECT_EQ(back[i], ToFloat(rounded[i]));
  }
}

TEST(KernelsTest, SoftmaxOverTilesEqualsSoftmaxOverAll) {
  auto scores = Random(3 * kTileKeys, 5);
  for (float& s : scores) s *= 20;  // far apart: the maximum moves
  const uint32_t keys[] = {kTileKeys, 7, kTileKeys};
  double largest = -1e30, sum = 0;
  for (int tile = 0; tile < 3; ++tile) {
    for (uint32_t i = 0; i < keys[tile]; ++i) largest = std::max<double>(largest, scores[tile * kTileKeys + i]);
  }
  for (int tile = 0; tile < 3; ++tile) {
    for (uint32_t i = 0; i < keys[tile]; ++i) sum += std::exp(scores[tile * kTileKeys + i] - largest);
  }
  float m = -std::numeric_limits<float>::infinity(), l = 0;
  for (int tile = 0; tile < 3; ++tile) TileSoftmax(&scores[tile * kTileKeys], keys[tile], &m, &l);
  EXPECT_FLOAT_EQ(m, static_cast<float>(largest));
  EXPECT_NEAR(l, sum, 1e-5 * sum);
}

TEST(KernelsTest, FullyMaskedTileChangesNothing) {
  std::vector<float> scores(kTileKeys, -std::numeric_limits<float>::infinity());
  float m = 3, l = 5;
  EXPECT_EQ(TileSoftmax(scores.data(), 10, &m, &l), 1.0f);
  EXPECT_EQ(m, 3);
  EXPECT_EQ(l, 5);
  for (float weight : scores) EXPECT_EQ(weight, 0);
}

}  // namespace
}  // namespace hga
