#include "gpu_worker/model/quant.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

std::vector<uint8_t> FromHex(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes.push_back(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST(QuantTest, RowsAreBitExactAgainstTheFormatsOwnPackage) {
  std::ifstream stream("tests/golden/quant.json");
  ASSERT_TRUE(stream.good());
  const auto cases = nlohmann::json::parse(stream);
  ASSERT_EQ(cases.size(), 7u);
  for (const auto& golden : cases) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    ASSERT_TRUE(TensorTypeSupported(golden["type"].get<uint32_t>()));
    const auto type = static_cast<TensorType>(golden["type"].get<uint32_t>());
    EXPECT_EQ(TensorTypeName(type), golden["name"].get<std::string>());
    const auto row = FromHex(golden["row"].get<std::string>());
    const auto expected = FromHex(golden["values"].get<std::string>());
    const uint32_t cols = expected.size() / sizeof(float);
    ASSERT_EQ(TensorRowBytes(type, cols), row.size());
    std::vector<float> values(cols);
    DequantizeRow(type, row.data(), cols, values.data());
    for (uint32_t i = 0; i < cols; ++i) {
      EXPECT_EQ(std::memcmp(&values[i], &expected[i * 4], 4), 0) << "element " << i << " is " << values[i];
    }
  }
}

TEST(QuantTest, HalfNotANumberStaysOne) {
  EXPECT_TRUE(std::isnan(HalfToFloat(0x7e00)));
  EXPECT_TRUE(std::isinf(HalfToFloat(0xfc00)));
  EXPECT_LT(HalfToFloat(0xfc00), 0);
}

TEST(QuantTest, UnknownTypesAreNotSupported) {
  EXPECT_FALSE(TensorTypeSupported(4));
  EXPECT_FALSE(TensorTypeSupported(12));  // Q4_K
  EXPECT_FALSE(TensorTypeSupported(UINT32_MAX));
}

// Largest error of a value that went through a type and back, in units of the row's largest value.
float RoundTripError(TensorType type) {
  std::vector<float> row(64), back(64);
  for (size_t i = 0; i < row.size(); ++i) row[i] = std::sin(0.7f * i) + 0.1f;
  const auto bytes = QuantizeRow(type, row);
  EXPECT_EQ(bytes.size(), TensorRowBytes(type, 64));
  DequantizeRow(type, bytes.data(), 64, back.data());
  float worst = 0;
  for (size_t i = 0; i < row.size(); ++i) worst = std::max(worst, std::fabs(row[i] - back[i]) / 1.1f);
  return worst;
}

TEST(QuantTest, QuantizeRowIsTheInverseUpToPrecision) {
  EXPECT_EQ(RoundTripError(TensorType::kF32), 0);
  EXPECT_LT(RoundTripError(TensorType::kF16), 0.001f);
  EXPECT_LT(RoundTripError(TensorType::kBF16), 0.004f);
  EXPECT_LT(RoundTripError(TensorType::kQ8_0), 0.005f);
  EXPECT_LT(RoundTripError(TensorType::kQ4_1), 0.07f);
  EXPECT_LT(RoundTripError(TensorType::kQ4_0), 0.08f);
}

}  // namespace
}  // namespace hga
