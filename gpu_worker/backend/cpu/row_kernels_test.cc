#include "gpu_worker/backend/cpu/row_kernels.h"

#include <vector>

#include "gpu_worker/backend/cpu/random_floats_test.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

float At(const void* row, uint32_t i) { return ToFloat(static_cast<const bf16*>(row)[i]); }

TEST(RowKernelsTest, MatchPlainLoops) {
  for (uint32_t d : {8u, 24u, 32u, 40u, 64u, 80u, 128u, 256u}) {
    const uint32_t pad = (d + kHeadPad - 1) / kHeadPad * kHeadPad, tokens = 15;
    std::vector<bf16> rows(tokens * d);
    const auto noise = Random(rows.size(), 7);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = ToBf16(noise[i]);
    // Rows that lie apart, and not in order.
    std::vector<const void*> places;
    for (uint32_t j = 0; j < tokens; ++j) places.push_back(&rows[j * 7 % tokens * d]);
    const std::vector<const void*> ahead(tokens, rows.data());
    const auto queries = Random(4 * pad, 8), before = Random(4 * pad, 9), weights = Random(4 * kTileKeys, 10);
    for (uint32_t count = 1; count <= 4; ++count) {
      std::vector<float> scores(4 * kTileKeys, 7.0f), o = before;
      const float keep[] = {0.5f, 1.0f, 0.0f, 2.0f};
      RowScores(queries.data(), count, places.data(), ahead.data(), tokens, d, pad, scores.data());
      RowValues(weights.data(), keep, count, places.data(), ahead.data(), tokens, d, pad, o.data());
      for (uint32_t q = 0; q < count; ++q) {
        for (uint32_t j = 0; j < tokens; ++j) {
          double expected = 0;
          for (uint32_t i = 0; i < d; ++i) expected += double{queries[q * pad + i]} * At(places[j], i);
          EXPECT_NEAR(scores[q * kTileKeys + j], expected, 1e-4);
        }
        EXPECT_EQ(scores[q * kTileKeys + tokens], 7.0f);  // not beyond the rows
        for (uint32_t i = 0; i < d; ++i) {
          double expected = double{keep[q]} * before[q * pad + i];
          for (uint32_t j = 0; j < tokens; ++j) expected += double{weights[q * kTileKeys + j]} * At(places[j], i);
          EXPECT_NEAR(o[q * pad + i], expected, 1e-4);
        }
      }
    }
  }
}

}  // namespace
}  // namespace hga
