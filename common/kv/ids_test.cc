#include "common/kv/ids.h"

#include <cmath>
#include <limits>

#include "common/kv/bf16.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

KvGeometry Geometry() {
  KvGeometry g;
  g.layers = 30;
  g.query_heads = 9;
  g.kv_heads = 3;
  g.head_dim = 64;
  return g;
}

TEST(GeometryTest, SizesOfTheReferenceModel) {
  const KvGeometry g = Geometry();
  EXPECT_TRUE(g.Validate().ok());
  EXPECT_EQ(g.block_bytes(), 49152u);
  EXPECT_EQ(g.bytes_per_token(), 23040u);
  // Every row of K and V has its own place inside the block.
  std::vector<int> uses(g.block_elements() / g.head_dim);
  for (uint32_t h = 0; h < g.kv_heads; ++h) {
    for (uint32_t t = 0; t < g.chunk_tokens; ++t) {
      ++uses[g.k_row(h, t) / g.head_dim];
      ++uses[g.v_row(h, t) / g.head_dim];
    }
  }
  EXPECT_EQ(uses, std::vector<int>(uses.size(), 1));
}

TEST(GeometryTest, Int8TakesHalfAndGivesEachByteOneUse) {
  KvGeometry g = Geometry();
  g.dtype = KvDtype::kInt8;
  EXPECT_TRUE(g.Validate().ok());
  EXPECT_EQ(g.block_bytes(), 49152u * 33 / 64);
  EXPECT_EQ(g.bytes_per_token(), 23040u * 33 / 64);
  std::vector<int> uses(g.block_bytes());
  for (uint32_t h = 0; h < g.kv_heads; ++h) {
    for (uint32_t t = 0; t < g.chunk_tokens; ++t) {
      for (uint32_t i = 0; i < g.head_dim; ++i) {
        ++uses[g.k_row(h, t) + i];
        ++uses[g.v_row(h, t) + i];
      }
      for (size_t i = 0; i < g.scale_bytes(); ++i) ++uses[g.scales_of(h, t) + i];
    }
  }
  EXPECT_EQ(uses, std::vector<int>(uses.size(), 1));
}

TEST(GeometryTest, BlocksHoldBf16OrInt8) {
  KvGeometry g = Geometry();
  for (uint8_t type : {1, 3, 255}) {
    g.dtype = static_cast<KvDtype>(type);
    EXPECT_EQ(g.Validate().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(GeometryTest, AbsurdValuesAreRefused) {
  for (auto field : {&KvGeometry::layers, &KvGeometry::query_heads, &KvGeometry::kv_heads, &KvGeometry::head_dim,
                     &KvGeometry::chunk_tokens, &KvGeometry::group_tokens}) {
    for (uint32_t value : {0u, 4000000000u, 7u * 11 * 13}) {
      KvGeometry g = Geometry();
      g.*field = value;
      if (field == &KvGeometry::layers && value == 1001) continue;
      EXPECT_EQ(g.Validate().code(), absl::StatusCode::kInvalidArgument) << value;
    }
  }
}

TEST(ChunkHashTest, BlocksOfAnotherTypeHaveOtherNames) {
  KvGeometry g = Geometry(), int8 = g;
  int8.dtype = KvDtype::kInt8;
  EXPECT_FALSE(g == int8);
  EXPECT_NE(SeedHash(HashBytes("model"), g), SeedHash(HashBytes("model"), int8));
}

TEST(ChunkHashTest, NamesDependOnEverythingBefore) {
  const KvGeometry g = Geometry();
  std::vector<uint32_t> tokens(200);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i * 7;
  const auto hashes = ChunkHashes(HashBytes("model"), g, tokens);
  ASSERT_EQ(hashes.size(), 3u);  // 8 tokens of a fourth chunk have no name
  auto changed = tokens;
  changed[70] ^= 1;
  const auto other = ChunkHashes(HashBytes("model"), g, changed);
  EXPECT_EQ(other[0], hashes[0]);
  EXPECT_NE(other[1], hashes[1]);
  EXPECT_NE(other[2], hashes[2]);
  EXPECT_NE(ChunkHashes(HashBytes("another"), g, tokens)[0], hashes[0]);
  KvGeometry finer = g;
  finer.group_tokens = 8;
  EXPECT_NE(ChunkHashes(HashBytes("model"), finer, tokens)[0], hashes[0]);
}

TEST(ChunkHashTest, BytesAndBack) {
  const ChunkHash hash = HashBytes("x");
  EXPECT_EQ(*Hash128::FromBytes(hash.ToBytes()), hash);
  EXPECT_EQ(hash.ToHex().size(), 32u);
  EXPECT_EQ(Hash128::FromBytes("short").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SessionNameTest, Rules) {
  for (const char* name : {"a", "doc-1.v2_x", "A9"}) EXPECT_TRUE(ValidateSessionName(name).ok()) << name;
  for (const std::string& name : {std::string(), std::string("../x"), std::string("a b"), std::string(".x"),
                                  std::string(129, 'a'), std::string("a\0b", 3), std::string("\xc3\xa4")}) {
    EXPECT_FALSE(ValidateSessionName(name).ok()) << name;
  }
}

TEST(Bf16Test, RoundsToNearestEven) {
  EXPECT_EQ(ToFloat(ToBf16(1.0f)), 1.0f);
  EXPECT_EQ(ToFloat(ToBf16(1.0f + 1.0f / 256)), 1.0f);           // half way: to the even one below
  EXPECT_EQ(ToFloat(ToBf16(1.0f + 3.0f / 256)), 1.0f + 1.0f / 64);  // half way: to the even one above
  EXPECT_EQ(ToFloat(ToBf16(-2.5f)), -2.5f);
  EXPECT_TRUE(std::isnan(ToFloat(ToBf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(ToFloat(ToBf16(std::numeric_limits<float>::max()))));
}

}  // namespace
}  // namespace hga
