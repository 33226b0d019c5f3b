#include "gpu_worker/backend/cpu/linear.h"

#include <cmath>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "gpu_worker/model/row_quantizer.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kThreads = 3, kCols = 256;
// Less than a piece, more than one, more pieces than threads: the last are cut in parts that do not divide them.
const std::vector<uint32_t> kOutputs = {37, 129, 450};

// Matrices over the same input, and what they are in floats.
struct Parts {
  explicit Parts(TensorType type) {
    std::mt19937 random(1);
    for (const uint32_t outputs : kOutputs) {
      bytes.emplace_back();
      for (uint32_t o = 0; o < outputs; ++o) {
        const auto row = RandomRow(type, kCols, 0.05f, &random);
        bytes.back().insert(bytes.back().end(), row.begin(), row.end());
        plain.emplace_back(kCols);
        DequantizeRow(type, row.data(), kCols, plain.back().data());
      }
      views.push_back({type, outputs, kCols, bytes.back().data(), nullptr});
    }
  }

  std::vector<std::vector<uint8_t>> bytes;
  std::vector<TensorView> views;
  std::vector<std::vector<float>> plain;  // of all outputs, side by side
};

std::vector<float> Activations(uint32_t rows) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(size_t{rows} * kCols);
  for (float& value : x) value = normal(random);
  return x;
}

class LinearTest : public testing::TestWithParam<TensorType> {
 protected:
  std::vector<float> Apply(const Parts& parts, const std::vector<float>& x, bool gemm, bool bf16_copy = false) {
    const auto rows = static_cast<uint32_t>(x.size() / kCols);
    workers_.BeginStep(rows > kGemvRowsMax);
    auto linear = Linear::Create(std::make_shared<LinearContext>(&workers_, bf16_copy), parts.views, gemm);
    EXPECT_TRUE(linear.ok()) << linear.status();
    EXPECT_EQ(linear->outputs(), parts.plain.size());
    std::vector<float> y(rows * parts.plain.size(), NAN);  // what is left out shows
    EXPECT_TRUE(linear->Apply(x.data(), rows, y.data()).ok());
    return y;
  }

  Workers workers_{kThreads};
};

// bf16 is the coarsest that any CPU multiplies here.
TEST_P(LinearTest, EveryOutputOfEveryRow) {
  const Parts parts(GetParam());
  for (const uint32_t rows : {1u, 7u, 9u, 64u, 70u, 81u}) {
    const auto x = Activations(rows);
    for (const auto& [gemm, copy] : {std::pair(false, false), std::pair(true, false), std::pair(true, true)}) {
      const auto y = Apply(parts, x, gemm, copy);
      for (size_t i = 0; i < y.size(); ++i) {
        const std::vector<float>& w = parts.plain[i % parts.plain.size()];
        const float* row = &x[i / parts.plain.size() * kCols];
        double exact = 0, size = 0;
        for (uint32_t c = 0; c < kCols; ++c) {
          exact += double{w[c]} * row[c];
          size += double{w[c]} * w[c] * row[c] * row[c];
        }
        ASSERT_NEAR(y[i], exact, 2e-2 * std::sqrt(size)) << rows << " rows, " << i << ", gemm " << gemm << copy;
      }
    }
  }
}

// Without GEMM a row's bits depend on nothing but the row.
TEST_P(LinearTest, ARowAloneHasTheSameBits) {
  const Parts parts(GetParam());
  const auto x = Activations(21);
  const auto together = Apply(parts, x, false);
  for (const uint32_t r : {0u, 5u, 20u}) {
    const auto alone = Apply(parts, {x.begin() + r * kCols, x.begin() + (r + 1) * kCols}, false);
    for (size_t o = 0; o < alone.size(); ++o) ASSERT_EQ(alone[o], together[r * alone.size() + o]) << r << " " << o;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LinearTest, testing::Values(TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kF32),
                         [](const auto& info) { return std::string(TensorTypeName(info.param)); });

}  // namespace
}  // namespace hga
