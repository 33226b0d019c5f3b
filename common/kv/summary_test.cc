#include "common/kv/summary.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "common/kv/kv_rows.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

KvGeometry Geometry() {
  KvGeometry g;
  g.layers = 2;
  g.query_heads = 4;
  g.kv_heads = 2;
  g.head_dim = 8;
  return g;
}

TEST(SummaryTest, MeanOfKnownKeys) {
  const KvGeometry g = Geometry();
  std::vector<bf16> block(g.block_elements(), ToBf16(100));  // V holds 100: it must not be read
  for (uint32_t h = 0; h < g.kv_heads; ++h) {
    for (uint32_t t = 0; t < g.chunk_tokens; ++t) {
      for (uint32_t d = 0; d < g.head_dim; ++d) block[g.k_row(h, t) + d] = ToBf16(h * 4.0f + t / g.group_tokens);
    }
  }
  const SummaryMethod* mean = *FindSummaryMethod("mean");
  std::vector<bf16> out(mean->layer_bytes(g) / sizeof(bf16));
  SummarizeBlock(g, *mean, 0, block.data(), reinterpret_cast<uint8_t*>(out.data()));
  // Head 1: chunk unit (mean of 0, 1, 2, 3) + 4, then the groups.
  const bf16* head = out.data() + 5 * 8;
  EXPECT_EQ(ToFloat(head[0]), 5.5f);
  for (int group = 0; group < 4; ++group) EXPECT_EQ(ToFloat(head[(1 + group) * 8 + 3]), 4.0f + group);
}

TEST(SummaryTest, CuboidIsCentreAndMeanHalfWidth) {
  KvGeometry g = Geometry();
  g.kv_heads = g.query_heads = 1;
  g.chunk_tokens = g.group_tokens = 3;
  std::vector<bf16> block(g.block_elements());
  const float keys[] = {-1, 3, 1};
  for (uint32_t t = 0; t < 3; ++t) {
    for (uint32_t d = 0; d < 8; ++d) block[g.k_row(0, t) + d] = ToBf16(keys[t]);
  }
  const SummaryMethod* cuboid = *FindSummaryMethod("cuboid");
  std::vector<bf16> out(cuboid->layer_bytes(g) / sizeof(bf16));
  SummarizeBlock(g, *cuboid, 0, block.data(), reinterpret_cast<uint8_t*>(out.data()));
  ASSERT_EQ(out.size(), 32u);  // chunk and one group, centre and half-width
  EXPECT_EQ(ToFloat(out[0]), 1.0f);
  EXPECT_NEAR(ToFloat(out[8]), 4.0f / 3, 0.01);
}

TEST(SummaryTest, OfInt8IsThatOfTheRoundedKeys) {
  KvGeometry g = Geometry(), int8 = g;
  int8.dtype = KvDtype::kInt8;
  std::vector<bf16> block(g.block_elements()), row(g.head_dim);
  std::vector<uint8_t> packed(int8.block_bytes());
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  for (uint32_t h = 0; h < g.kv_heads; ++h) {
    for (uint32_t t = 0; t < g.chunk_tokens; ++t) {
      for (bf16& x : row) x = ToBf16(normal(random));
      WriteKv(int8, row.data(), row.data(), packed.data(), h, t);
      RoundKvRow(KvDtype::kInt8, row.data(), g.head_dim);
      WriteKv(g, row.data(), row.data(), block.data(), h, t);
    }
  }
  for (const char* name : {"mean", "sketch"}) {
    const SummaryMethod* method = *FindSummaryMethod(name);
    std::vector<uint8_t> expected(method->layer_bytes(g)), actual(expected.size());
    SummarizeBlock(g, *method, 0, block.data(), expected.data());
    SummarizeBlock(int8, *method, 0, packed.data(), actual.data());
    EXPECT_EQ(actual, expected) << name;
  }
}

TEST(SummaryTest, SketchTakesLessThanFourPercentOfTheKeysAndValues) {
  KvGeometry g = Geometry();
  const SummaryMethod* sketch = *FindSummaryMethod("sketch");
  for (uint32_t head_dim : {64u, 128u}) {
    g.head_dim = head_dim;
    EXPECT_LT(sketch->layer_bytes(g), g.block_bytes() * 0.04) << head_dim;
  }
}

TEST(SummaryTest, NamesSayFormUnitAndPrecision) {
  const KvGeometry g = Geometry();
  const SummaryMethod* method = *FindSummaryMethod("box32-int8");
  EXPECT_EQ(method->unit_tokens(g), 32u);
  EXPECT_EQ(method->layer_bytes(g), g.kv_heads * 3 * (2 * g.head_dim + 8));
  EXPECT_EQ((*FindSummaryMethod("cuboid"))->unit_tokens(g), g.group_tokens);
  EXPECT_EQ((*FindSummaryMethod("mean8"))->layer_bytes(g), g.kv_heads * 9 * 2 * g.head_dim);
  EXPECT_FALSE(FindSummaryMethod("mean7").ok());
  KvGeometry odd = g;
  odd.chunk_tokens = odd.group_tokens = 12;
  EXPECT_EQ((*FindSummaryMethod("mean8"))->unit_tokens(odd), 4u);
}

TEST(SummaryTest, KeysThatAreNotFiniteCountAsZero) {
  const KvGeometry g = Geometry();
  std::vector<bf16> block(g.block_elements(), ToBf16(1)), zeroed = block;
  for (float value : {INFINITY, -INFINITY, NAN}) {
    block[g.k_row(1, 20) + 3] = ToBf16(value);
    zeroed[g.k_row(1, 20) + 3] = ToBf16(0);
    for (const std::string& name : SummaryMethodNames()) {
      const SummaryMethod* method = *FindSummaryMethod(name);
      std::vector<uint8_t> out(method->layer_bytes(g)), expected(method->layer_bytes(g));
      SummarizeBlock(g, *method, 0, block.data(), out.data());
      SummarizeBlock(g, *method, 0, zeroed.data(), expected.data());
      EXPECT_EQ(out, expected) << name;
    }
  }
}

TEST(SummaryTest, UnknownMethodListsTheOthers) {
  const auto missing = FindSummaryMethod("none");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(missing.status().message()).find("cuboid"), std::string::npos);
}

}  // namespace
}  // namespace hga
