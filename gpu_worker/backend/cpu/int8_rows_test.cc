#include "gpu_worker/backend/cpu/int8_rows.h"

#include <cmath>
#include <vector>

#include "common/kv/kv_rows.h"
#include "gpu_worker/backend/cpu/random_floats_test.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kTokens = 29;

// One KV head's keys and values, packed into a block, and what they are as floats.
struct Rows {
  explicit Rows(uint32_t head_dim) {
    g.layers = g.query_heads = g.kv_heads = 1;
    g.head_dim = head_dim;
    g.dtype = KvDtype::kInt8;
    block.resize(g.block_bytes());
    const auto noise = Random(2 * g.chunk_tokens * head_dim, 7);
    std::vector<bf16> k_row(head_dim), v_row(head_dim);
    for (uint32_t t = 0; t < g.chunk_tokens; ++t) {
      for (uint32_t i = 0; i < head_dim; ++i) {
        k_row[i] = ToBf16(noise[t * head_dim + i] * (i % 40 == 3 ? 50.0f : 1.0f));  // outliers, as keys have them
        v_row[i] = ToBf16(noise[(g.chunk_tokens + t) * head_dim + i]);
      }
      WriteKv(g, k_row.data(), v_row.data(), block.data(), 0, t);
      const KvPlace place = PlaceInBlock(g, block.data(), 0, t);
      ReadKey(g, place, k_row.data());
      ReadValue(g, place, v_row.data());
      for (uint32_t i = 0; i < head_dim; ++i) {
        k.push_back(ToFloat(k_row[i]));
        v.push_back(ToFloat(v_row[i]));
      }
    }
    for (uint32_t j = 0; j < kRowsAtATime; ++j) {
      tokens.push_back(j * 23 % g.chunk_tokens);  // apart, and not in order
      const KvPlace place = PlaceInBlock(g, block.data(), 0, tokens[j]);
      at_k.push_back(place.k);
    }
    all = {kTokens, at_k.data(), at_k.data()};
  }
  KvGeometry g;
  std::vector<uint8_t> block;
  std::vector<float> k, v;  // [chunk_tokens][head_dim]
  std::vector<uint32_t> tokens;
  std::vector<const void*> at_k;
  Int8Rows all;
};

class Int8RowsTest : public testing::TestWithParam<uint32_t> {};

TEST_P(Int8RowsTest, ScoresAreThoseOfPlainLoops) {
  const uint32_t d = GetParam(), pad = (d + kHeadPad - 1) / kHeadPad * kHeadPad;
  const Rows rows(d);
  std::vector<float> queries(5 * pad);
  const auto noise = Random(queries.size(), 8);
  for (size_t i = 0; i < queries.size(); ++i) queries[i] = i % pad < d ? noise[i] : 0.0f;
  Int8Queries rounded;
  RoundQueries(queries.data(), 5, pad, &rounded);
  for (uint32_t count = 1; count <= 4; ++count) {
    std::vector<float> scores(4 * kTileKeys, 7.0f);
    Int8RowScores(rounded, 1, count, rows.all, d, pad, scores.data());
    for (uint32_t q = 0; q < count; ++q) {
      for (uint32_t j = 0; j < kTokens; ++j) {
        double expected = 0, size = 0;
        for (uint32_t i = 0; i < d; ++i) {
          const double product = double{queries[(1 + q) * pad + i]} * rows.k[rows.tokens[j] * d + i];
          expected += product;
          size += std::fabs(product);
        }
        EXPECT_NEAR(scores[q * kTileKeys + j], expected, 2e-4 * size) << d << " query " << q << " key " << j;
      }
      EXPECT_EQ(scores[q * kTileKeys + kTokens], 7.0f);  // not beyond the rows
    }
  }
}

TEST_P(Int8RowsTest, ValuesAreThoseOfPlainLoops) {
  const uint32_t d = GetParam(), pad = (d + kHeadPad - 1) / kHeadPad * kHeadPad;
  const Rows rows(d);
  const auto before = Random(4 * pad, 9), noise = Random(4 * kTileKeys, 10);
  std::vector<float> weights(4 * kTileKeys);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = i % kTileKeys < kTokens ? std::fabs(noise[i]) : 0.0f;
  const float keep[] = {0.5f, 1.0f, 0.0f, 2.0f};
  for (uint32_t count = 1; count <= 4; ++count) {
    std::vector<float> o = before;
    Int8RowValues(weights.data(), keep, count, rows.all, d, pad, o.data());
    for (uint32_t q = 0; q < count; ++q) {
      for (uint32_t i = 0; i < d; ++i) {
        double expected = double{keep[q]} * before[q * pad + i], size = std::fabs(expected);
        for (uint32_t j = 0; j < kTokens; ++j) {
          const double product = double{weights[q * kTileKeys + j]} * rows.v[rows.tokens[j] * d + i];
          expected += product;
          size += std::fabs(product);
        }
        EXPECT_NEAR(o[q * pad + i], expected, 2e-4 * size) << d << " query " << q << " channel " << i;
      }
    }
    for (size_t i = count * pad; i < o.size(); ++i) EXPECT_EQ(o[i], before[i]);
  }
}

TEST_P(Int8RowsTest, RowsAsFloatsAreExact) {
  const uint32_t d = GetParam(), stride = d + 3;
  const Rows rows(d);
  const KvPlace place = PlaceInBlock(rows.g, rows.block.data(), 0, 0);
  std::vector<float> keys(16 * stride, 5.0f), values(16 * stride, 5.0f);
  Int8RowsToFloats(place.k, ScalesBehind(place.k, d), rows.g.row_stride(), 16, d, stride, keys.data());
  Int8RowsToFloats(place.v, ScalesBehind(place.k, d) + ScalesOfRow(d), rows.g.row_stride(), 16, d, stride,
                   values.data());
  for (uint32_t t = 0; t < 16; ++t) {
    for (uint32_t i = 0; i < d; ++i) {
      EXPECT_EQ(keys[t * stride + i], rows.k[t * d + i]);
      EXPECT_EQ(values[t * stride + i], rows.v[t * d + i]);
    }
    EXPECT_EQ(keys[t * stride + d], 5.0f);
  }
}

INSTANTIATE_TEST_SUITE_P(HeadDims, Int8RowsTest, testing::Values(8u, 24u, 32u, 40u, 64u, 80u, 96u, 128u, 256u));

}  // namespace
}  // namespace hga
