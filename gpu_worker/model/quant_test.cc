#include "gpu_worker/model/quant.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "gpu_worker/model/row_quantizer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

std::vector<uint8_t> FromBase64(const std::string& text) {
  std::string bytes;
  EXPECT_TRUE(absl::Base64Unescape(text, &bytes));
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

TEST(QuantTest, RowsAreBitExactAgainstOtherImplementations) {
  std::ifstream stream("tests/golden/quant.json");
  ASSERT_TRUE(stream.good());
  const auto cases = nlohmann::json::parse(stream);
  ASSERT_EQ(cases.size(), 12u);
  for (const auto& golden : cases) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const auto type = static_cast<TensorType>(golden["type"].get<uint32_t>());
    EXPECT_EQ(TensorTypeSupported(static_cast<uint32_t>(type)), type != TensorType::kF8E4M3);
    EXPECT_EQ(TensorTypeName(type), golden["name"].get<std::string>());
    const auto row = FromBase64(golden["row"].get<std::string>());
    const auto expected = FromBase64(golden["values"].get<std::string>());
    const uint32_t cols = expected.size() / sizeof(float);
    ASSERT_EQ(TensorRowBytes(type, cols), row.size());
    std::vector<float> values(cols);
    DequantizeRow(type, row.data(), cols, values.data());
    for (uint32_t i = 0; i < cols; ++i) {
      EXPECT_EQ(std::memcmp(&values[i], &expected[i * 4], 4), 0) << "element " << i << " is " << values[i];
    }
  }
}

TEST(QuantTest, BlocksAreThoseOfTheFormat) {
  const struct {
    TensorType type;
    uint32_t elements, bytes;
  } blocks[] = {{TensorType::kF32, 1, 4},      {TensorType::kF16, 1, 2},      {TensorType::kBF16, 1, 2},
                {TensorType::kQ4_0, 32, 18},   {TensorType::kQ4_1, 32, 20},   {TensorType::kQ5_0, 32, 22},
                {TensorType::kQ5_1, 32, 24},   {TensorType::kQ8_0, 32, 34},   {TensorType::kQ4_K, 256, 144},
                {TensorType::kQ5_K, 256, 176}, {TensorType::kQ6_K, 256, 210}, {TensorType::kF8E4M3, 1, 1}};
  for (const auto& block : blocks) {
    EXPECT_EQ(TensorBlockElements(block.type), block.elements) << TensorTypeName(block.type);
    EXPECT_EQ(TensorBlockBytes(block.type), block.bytes) << TensorTypeName(block.type);
    EXPECT_EQ(TensorRowBytes(block.type, 768), 768 / block.elements * block.bytes) << TensorTypeName(block.type);
  }
}

TEST(QuantTest, AnythingThatIsNotFiniteIsSeen) {
  for (TensorType type : {TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0, TensorType::kQ5_1,
                          TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kQ5_K, TensorType::kQ6_K}) {
    SCOPED_TRACE(TensorTypeName(type));
    std::vector<uint8_t> row(TensorRowBytes(type, 768));  // 3 or more blocks
    for (size_t i = 0; i < row.size(); ++i) row[i] = i % 2 ? 0x3f : 0x77;
    EXPECT_TRUE(RowIsFinite(type, row.data(), 768));
    // The scales of the last block, one after the other.
    const bool scale_is_last = type == TensorType::kQ6_K;
    const bool two = type == TensorType::kQ4_1 || type == TensorType::kQ5_1 || type == TensorType::kQ4_K ||
                     type == TensorType::kQ5_K;
    for (int scale = 0; scale < (two ? 2 : 1); ++scale) {
      for (uint16_t bad : {0x7c00, 0xfc00, 0x7e01}) {
        auto broken = row;
        const size_t last = row.size() - TensorBlockBytes(type);
        std::memcpy(&broken[scale_is_last ? row.size() - 2 : last + 2 * scale], &bad, 2);
        EXPECT_FALSE(RowIsFinite(type, broken.data(), 768)) << "scale " << scale << " " << bad;
        std::vector<float> values(768);
        DequantizeRow(type, broken.data(), 768, values.data());
        EXPECT_FALSE(std::isfinite(values[767])) << "scale " << scale << " " << bad;
      }
    }
  }
  const float floats[] = {1, -INFINITY};
  const uint16_t halves[] = {0x3c00, 0x7e00}, brains[] = {0x7f7f, 0x7f80};
  const uint8_t eights[] = {0x7e, 0xff};
  const std::pair<TensorType, const void*> plain[] = {{TensorType::kF32, floats},
                                                      {TensorType::kF16, halves},
                                                      {TensorType::kBF16, brains},
                                                      {TensorType::kF8E4M3, eights}};
  for (const auto& [type, row] : plain) {
    SCOPED_TRACE(TensorTypeName(type));
    EXPECT_TRUE(RowIsFinite(type, static_cast<const uint8_t*>(row), 1));
    EXPECT_FALSE(RowIsFinite(type, static_cast<const uint8_t*>(row), 2));
  }
}

TEST(QuantTest, HalfNotANumberStaysOne) {
  EXPECT_TRUE(std::isnan(HalfToFloat(0x7e00)));
  EXPECT_TRUE(std::isinf(HalfToFloat(0xfc00)));
  EXPECT_LT(HalfToFloat(0xfc00), 0);
}

TEST(QuantTest, UnknownTypesAreNotSupported) {
  EXPECT_FALSE(TensorTypeSupported(4));
  EXPECT_FALSE(TensorTypeSupported(10));  // Q2_K
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
  EXPECT_LT(RoundTripError(TensorType::kQ5_1), 0.035f);
  EXPECT_LT(RoundTripError(TensorType::kQ5_0), 0.04f);
  EXPECT_LT(RoundTripError(TensorType::kQ4_1), 0.07f);
  EXPECT_LT(RoundTripError(TensorType::kQ4_0), 0.08f);
}

}  // namespace
}  // namespace hga
