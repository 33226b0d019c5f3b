#include "gpu_worker/backend/cpu/integer_gemm.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gpu_worker/model/row_quantizer.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr TensorType kTypes[] = {TensorType::kQ8_0, TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
                                 TensorType::kQ5_1, TensorType::kQ4_K, TensorType::kQ5_K, TensorType::kQ6_K};

struct Matrix {
  Matrix(TensorType type, uint32_t rows, uint32_t cols) {
    std::mt19937 random(rows + cols);
    for (uint32_t r = 0; r < rows; ++r) Add(RandomRow(type, cols, 0.05f, &random), type, cols);
    view = {type, rows, cols, bytes.data(), nullptr};
  }
  // One row of these bytes.
  Matrix(TensorType type, const std::vector<uint8_t>& row, uint32_t cols) {
    Add(row, type, cols);
    view = {type, 1, cols, bytes.data(), nullptr};
  }

  void Add(const std::vector<uint8_t>& row, TensorType type, uint32_t cols) {
    bytes.insert(bytes.end(), row.begin(), row.end());
    plain.resize(plain.size() + cols);
    DequantizeRow(type, row.data(), cols, &plain[plain.size() - cols]);
  }

  std::vector<uint8_t> bytes;
  std::vector<float> plain;
  TensorView view;
};

// Some activations are far larger than the others, as in real models.
std::vector<float> Activations(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (size_t i = 0; i < count; ++i) x[i] = normal(random) * (i % 97 == 5 ? 100.0f : 1.0f);
  return x;
}

RoundedRows Rounded(TensorType type, const float* x, uint32_t rows, uint32_t cols) {
  RoundedRows rounded;
  rounded.Resize(rows, cols, LargestActivation(type));
  for (uint32_t r = 0; r < rows; ++r) rounded.SetRow(r, x + size_t{r} * cols);
  return rounded;
}

using Multiply = void (*)(const TensorView&, uint32_t, uint32_t, const IntegerProduct&, float*);

std::vector<float> Product(Multiply multiply, const Matrix& w, const RoundedRows& x) {
  std::vector<float> y(size_t{x.rows()} * w.view.rows);
  multiply(w.view, 0, w.view.rows, {&x, 0, x.rows(), w.view.rows}, y.data());
  return y;
}

// Largest distance of y from the product in double, relative to the sizes of what is added up.
double WorstError(const Matrix& w, const std::vector<float>& x, const std::vector<float>& y) {
  const uint32_t cols = w.view.cols, outputs = w.view.rows;
  double worst = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    double exact = 0, size = 0;
    for (uint32_t c = 0; c < cols; ++c) {
      const double part = double{w.plain[i % outputs * cols + c]} * x[i / outputs * cols + c];
      exact += part;
      size += part * part;
    }
    worst = std::max(worst, std::abs(y[i] - exact) / std::sqrt(size + 1e-30));  // all weights may be 0
  }
  return worst;
}

TEST(IntegerGemmTest, ProductsAreAsExactAsFifteenBits) {
  for (const TensorType type : kTypes) {
    for (const uint32_t cols : {256u, 768u, 1536u}) {
      ASSERT_TRUE(HasIntegerGemm(type, cols));
      for (const uint32_t rows : {1u, 4u, 7u, 70u}) {
        const Matrix w(type, 37, cols);
        const auto x = Activations(size_t{rows} * cols, rows);
        const RoundedRows rounded = Rounded(type, x.data(), rows, cols);
        EXPECT_LT(WorstError(w, x, Product(IntegerGemv, w, rounded)), 3e-3) << TensorTypeName(type) << " " << cols;
        EXPECT_LT(WorstError(w, x, Product(IntegerGemm, w, rounded)), 3e-3) << TensorTypeName(type) << " " << cols;
      }
    }
  }
}

// Blocks of 32 make rows of any multiple of it; 17 blocks are one more than a slice.
TEST(IntegerGemmTest, OddNumbersOfBlocks) {
  for (const uint32_t cols : {32u, 96u, 544u}) {
    const Matrix w(TensorType::kQ8_0, 5, cols);
    const auto x = Activations(size_t{9} * cols, 1);
    const RoundedRows rounded = Rounded(TensorType::kQ8_0, x.data(), 9, cols);
    EXPECT_LT(WorstError(w, x, Product(IntegerGemv, w, rounded)), 1e-3) << cols;
    EXPECT_LT(WorstError(w, x, Product(IntegerGemm, w, rounded)), 1e-3) << cols;
  }
}

TEST(IntegerGemmTest, ARowHasTheSameBitsWhereverItIs) {
  constexpr uint32_t kCols = 768, kRows = 70, kOutputs = 50;
  const Matrix w(TensorType::kQ4_1, kOutputs, kCols);
  const auto x = Activations(size_t{kRows} * kCols, 3);
  const RoundedRows all = Rounded(w.view.type, x.data(), kRows, kCols);
  for (const Multiply multiply : {IntegerGemv, IntegerGemm}) {
    const auto together = Product(multiply, w, all);
    for (uint32_t r = 0; r < kRows; r += 23) {
      const RoundedRows one = Rounded(w.view.type, &x[size_t{r} * kCols], 1, kCols);
      const auto alone = Product(multiply, w, one);
      for (uint32_t o = 0; o < kOutputs; ++o) ASSERT_EQ(alone[o], together[r * kOutputs + o]) << r << " " << o;
      // A piece of the outputs, for a row in the middle of others.
      std::vector<float> piece(8);
      multiply(w.view, 21, 8, {&all, r, 1, 8}, piece.data());
      for (uint32_t o = 0; o < 8; ++o) ASSERT_EQ(piece[o], alone[21 + o]);
    }
  }
}

// The largest sums of a block: every weight and activation at its largest, of one sign.
TEST(IntegerGemmTest, NothingOverflows) {
  std::vector<uint8_t> q6(210), q8(34);
  for (int i = 0; i < 192; ++i) q6[i] = 0;                                         // q = -32
  for (int i = 192; i < 208; ++i) q6[i] = static_cast<uint8_t>(int8_t{-128});      // scales
  const uint16_t half_one = 0x3c00;
  std::memcpy(&q6[208], &half_one, 2);
  std::memcpy(&q8[0], &half_one, 2);
  for (int i = 2; i < 34; ++i) q8[i] = static_cast<uint8_t>(int8_t{-128});
  const std::vector<float> x(256, -3.0f);
  for (const Multiply multiply : {IntegerGemv, IntegerGemm}) {
    float y;
    const RoundedRows long_row = Rounded(TensorType::kQ6_K, x.data(), 1, 256);
    const RoundedRows short_row = Rounded(TensorType::kQ8_0, x.data(), 1, 32);
    multiply({TensorType::kQ6_K, 1, 256, q6.data(), nullptr}, 0, 1, {&long_row, 0, 1, 1}, &y);
    EXPECT_FLOAT_EQ(y, 256.0f * 4096 * -3);
    multiply({TensorType::kQ8_0, 1, 32, q8.data(), nullptr}, 0, 1, {&short_row, 0, 1, 1}, &y);
    EXPECT_FLOAT_EQ(y, 32.0f * -128 * -3);
  }
}

// A row of 512 weights whose quants and block scales are `byte` all over, or anything (-1), with scales of 1 in half
// precision, and offsets too.
std::vector<uint8_t> RowOfBytes(TensorType type, int byte, std::mt19937* random) {
  std::vector<uint8_t> row(TensorRowBytes(type, 512));
  for (uint8_t& b : row) b = static_cast<uint8_t>(byte >= 0 ? byte : (*random)());
  const uint16_t half_one = 0x3c00;
  const bool offset = type == TensorType::kQ4_1 || type == TensorType::kQ5_1 || type == TensorType::kQ4_K ||
                      type == TensorType::kQ5_K;
  for (size_t block = 0; block < row.size(); block += TensorBlockBytes(type)) {
    std::memcpy(&row[block + (type == TensorType::kQ6_K ? 208 : 0)], &half_one, 2);
    if (offset) std::memcpy(&row[block + 2], &half_one, 2);
  }
  return row;
}

TEST(IntegerGemmTest, ExtremeWeightsAndActivations) {
  std::mt19937 random(1);
  for (const TensorType type : kTypes) {
    for (const int byte : {0x00, 0xff, 0x7f, 0x80, 0x0f, 0xf0, -1, -1, -1}) {
      const Matrix w(type, RowOfBytes(type, byte, &random), 512);
      for (const float sign : {1.0f, -1.0f}) {
        std::vector<float> x(512, 1e4f);
        for (size_t i = 0; i < x.size(); ++i) x[i] = i % 3 == 0 ? 1e4f * sign : 1e4f;
        const RoundedRows rounded = Rounded(type, x.data(), 1, 512);
        EXPECT_LT(WorstError(w, x, Product(IntegerGemv, w, rounded)), 1e-4) << TensorTypeName(type) << " " << byte;
        EXPECT_LT(WorstError(w, x, Product(IntegerGemm, w, rounded)), 1e-4) << TensorTypeName(type) << " " << byte;
      }
    }
  }
}

TEST(IntegerGemmTest, ZeroRowsStayZero) {
  const Matrix w(TensorType::kQ4_K, 3, 256);
  const std::vector<float> x(256, 0.0f);
  const RoundedRows rounded = Rounded(w.view.type, x.data(), 1, 256);
  for (const Multiply multiply : {IntegerGemv, IntegerGemm}) {
    for (const float y : Product(multiply, w, rounded)) EXPECT_EQ(y, 0.0f);
  }
}

TEST(IntegerGemmTest, WhatIsNotANumberStaysSo) {
  const Matrix w(TensorType::kQ4_1, 3, 96);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x(96, 1.0f);
    x[40] = bad;
    const RoundedRows rounded = Rounded(w.view.type, x.data(), 1, 96);
    for (const Multiply multiply : {IntegerGemv, IntegerGemm}) {
      for (const float y : Product(multiply, w, rounded)) EXPECT_FALSE(std::isfinite(y));
    }
  }
}

TEST(IntegerGemmTest, KnowsWhatItCannotMultiply) {
  EXPECT_FALSE(HasIntegerGemm(TensorType::kF16, 256));
  EXPECT_FALSE(HasIntegerGemm(TensorType::kF8E4M3, 256));
  EXPECT_FALSE(HasIntegerGemm(TensorType::kQ8_0, 40));
}

}  // namespace
}  // namespace hga
