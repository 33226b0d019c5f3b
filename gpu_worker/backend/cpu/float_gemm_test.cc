#include "gpu_worker/backend/cpu/float_gemm.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "gpu_worker/backend/cpu/random_floats_test.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kCols = 192;
// Together more than two blocks of outputs, the last not full.
const std::vector<uint32_t> kOutputs = {37, 129, 120};

class FloatGemmTest : public testing::Test {
 protected:
  FloatGemmTest() {
    for (const uint32_t outputs : kOutputs) {
      weights_.push_back(Random(size_t{outputs} * kCols, 3 + outputs));
      const auto* bytes = reinterpret_cast<const uint8_t*>(weights_.back().data());
      views_.push_back({TensorType::kF32, outputs, kCols, bytes, nullptr});
      outputs_ += outputs;
    }
    auto gemm = FloatGemm::Create(context_, views_);
    EXPECT_TRUE(gemm.ok()) << gemm.status();
    gemm_ = *std::move(gemm);
  }

  // Of the first `rows` of x_.
  std::vector<float> Apply(uint32_t rows) {
    std::vector<float> y(size_t{rows} * outputs_, NAN);  // what is left out shows
    EXPECT_TRUE(gemm_->Apply(x_.data(), rows, y.data()).ok());
    return y;
  }
  const float* Weights(uint32_t output) const {
    size_t part = 0;
    for (; output >= kOutputs[part]; ++part) output -= kOutputs[part];
    return &weights_[part][size_t{output} * kCols];
  }

  const std::shared_ptr<GemmContext> context_ = NewGemmContext();
  const std::vector<float> x_ = Random(size_t{kGemmRows} * kCols, 2);
  std::vector<std::vector<float>> weights_;
  std::vector<TensorView> views_;
  uint32_t outputs_ = 0;
  std::unique_ptr<FloatGemm> gemm_;
};

TEST_F(FloatGemmTest, EveryOutputOfEveryRow) {
  const std::vector<float> y = Apply(kGemmRows);
  for (size_t i = 0; i < y.size(); ++i) {
    const float* const w = Weights(static_cast<uint32_t>(i % outputs_));
    const float* const row = &x_[i / outputs_ * kCols];
    double exact = 0, size = 0;
    for (uint32_t c = 0; c < kCols; ++c) {
      exact += double{w[c]} * row[c];
      size += double{w[c]} * w[c] * row[c] * row[c];
    }
    // Both factors rounded to bf16, where the CPU multiplies that.
    ASSERT_NEAR(y[i], exact, 2e-2 * std::sqrt(size)) << i;
  }
}

// A tile that is not full, after one that was and left its numbers behind.
TEST_F(FloatGemmTest, ARowsBitsDoNotDependOnHowManyFollow) {
  const std::vector<float> full = Apply(kGemmRows);
  for (const uint32_t rows : {1u, 15u, 16u, 17u, 63u}) {
    const std::vector<float> y = Apply(rows);
    ASSERT_TRUE(std::equal(y.begin(), y.end(), full.begin())) << rows;
  }
}

TEST_F(FloatGemmTest, OneMatrixOfSeveralIsTheSame) {
  const std::vector<float> all = Apply(kGemmRows);
  auto last = FloatGemm::Create(context_, {views_.back()});
  ASSERT_TRUE(last.ok()) << last.status();
  const uint32_t count = kOutputs.back();
  std::vector<float> y(size_t{kGemmRows} * count, NAN);
  ASSERT_TRUE((*last)->Apply(x_.data(), kGemmRows, y.data()).ok());
  for (uint32_t r = 0; r < kGemmRows; ++r) {
    for (uint32_t o = 0; o < count; ++o) {
      ASSERT_NEAR(y[r * count + o], all[(r + 1) * outputs_ - count + o], 1e-3) << r << " " << o;
    }
  }
  EXPECT_GE((*last)->packed_bytes(), size_t{count} * kCols * sizeof(uint16_t));
}

}  // namespace
}  // namespace hga
