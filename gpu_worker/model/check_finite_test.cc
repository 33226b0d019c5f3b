#include "gpu_worker/model/check_finite.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kRows = 100, kCols = 64;

// A Q8_0 matrix whose blocks all have the scale 1.
class CheckFiniteTest : public testing::Test {
 protected:
  CheckFiniteTest() : data_(kRows * TensorRowBytes(TensorType::kQ8_0, kCols)) {
    for (uint32_t row = 0; row < kRows; ++row) SetScale(row, 0x3c00), SetScale(row, 0x3c00, 1);
  }
  void SetScale(uint32_t row, uint16_t half, uint32_t block = 0) {
    const size_t row_bytes = TensorRowBytes(TensorType::kQ8_0, kCols);
    std::memcpy(&data_[row * row_bytes + block * row_bytes / 2], &half, sizeof(half));
  }
  TensorView View() const {
    TensorView view;
    view.type = TensorType::kQ8_0;
    view.rows = kRows;
    view.cols = kCols;
    view.data = data_.data();
    return view;
  }

  std::vector<uint8_t> data_;
};

void ExpectNamed(const absl::Status& status, const std::string& what) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
}

TEST_F(CheckFiniteTest, FirstAndLastRowAreAlwaysLookedAt) {
  EXPECT_TRUE(CheckFinite({"w", View()}, 3).ok());
  SetScale(kRows - 1, 0x7e00, 1);
  ExpectNamed(CheckFinite({"w", View()}, 3), "tensor 'w' (Q8_0): a scale of row 99 is infinite or not a number");
  SetScale(0, 0xfc00);
  ExpectNamed(CheckFinite({"w", View()}, 3), "row 0");
  ExpectNamed(CheckFinite({"w", View()}, 1), "row 0");
}

TEST_F(CheckFiniteTest, EveryRowIsLookedAtWhereThereAreFew) {
  for (uint32_t row = 0; row < kRows; ++row) {
    SetScale(row, 0x7c00);
    EXPECT_FALSE(CheckFinite({"w", View()}, 1000).ok()) << row;
    SetScale(row, 0);
  }
  EXPECT_TRUE(CheckFinite({"w", View()}, 1000).ok());
}

TEST_F(CheckFiniteTest, EveryTileScaleIsLookedAt) {
  std::vector<uint8_t> codes(130 * 256, 0x38);
  std::vector<float> scales(4, 1.0f);
  TensorView view;
  view.type = TensorType::kF8E4M3;
  view.rows = 130;
  view.cols = 256;
  view.data = codes.data();
  view.tile_scales = scales.data();
  EXPECT_TRUE(CheckFinite({"w", view}, 3).ok());
  scales[3] = NAN;
  ExpectNamed(CheckFinite({"w", view}, 3), "the scale of tile 3");
  scales[3] = 1;
  codes[5] = 0x7f;
  ExpectNamed(CheckFinite({"w", view}, 3), "an element of row 0");
}

TEST_F(CheckFiniteTest, EveryTensorOfAModelIsLookedAt) {
  ModelWeights weights;
  weights.embedding = weights.output = View();
  weights.layers.resize(2);
  std::vector<float> norm(kCols, 1);
  TensorView vector;
  vector.rows = 1;
  vector.cols = kCols;
  vector.data = reinterpret_cast<const uint8_t*>(norm.data());
  weights.output_norm = weights.layers[1].ffn_norm = vector;
  EXPECT_TRUE(CheckFinite(weights).ok());
  norm[7] = INFINITY;
  ExpectNamed(CheckFinite(weights), "tensor 'output_norm' (F32): an element of row 0");
  weights.output_norm = TensorView();
  ExpectNamed(CheckFinite(weights), "tensor 'layers.1.ffn_norm' (F32)");
}

}  // namespace
}  // namespace hga
