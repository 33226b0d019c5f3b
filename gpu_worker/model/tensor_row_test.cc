#include "gpu_worker/model/tensor_row.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(TensorRowTest, TileScalesMultiplyTheirTile) {
  // 130 x 257 of ones: 2 x 3 tiles, of which the last row and column are cut off.
  const uint32_t rows = 130, cols = 257;
  const std::vector<uint8_t> ones(size_t{rows} * cols, 0x38);
  const std::vector<float> scales = {1, 2, 3, 4, 5, 6};
  const TensorView view{TensorType::kF8E4M3, rows, cols, ones.data(), scales.data()};
  std::vector<float> out(cols);
  for (uint32_t row : {0u, 127u, 128u, 129u}) {
    DequantizeTensorRow(view, row, out.data());
    const float first = row < 128 ? 1 : 4;
    for (uint32_t i = 0; i < cols; ++i) ASSERT_EQ(out[i], first + i / 128) << row << " " << i;
  }
}

TEST(TensorRowTest, OtherTypesAreAsDequantizeRowHasThem) {
  const std::vector<float> data = {1, 2, 3, 4, 5, 6};
  const TensorView view{TensorType::kF32, 2, 3, reinterpret_cast<const uint8_t*>(data.data())};
  float out[3];
  DequantizeTensorRow(view, 1, out);
  EXPECT_EQ(out[0], 4);
  EXPECT_EQ(out[2], 6);
}

}  // namespace
}  // namespace hga
