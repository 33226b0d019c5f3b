// Scores of queries against summary units: the arithmetic of the selection, vectorised for the CPU at hand.
#ifndef HGA_ROUTER_INDEX_SCORE_H_
#define HGA_ROUTER_INDEX_SCORE_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"
#include "common/kv/sketch.h"
#include "common/kv/summary.h"

namespace hga {

// The query heads of one KV head, for one token.
struct ScoreQueries {
  const float* data = nullptr;  // [heads][head_dim], softmax scale applied
  uint32_t heads = 0;
  uint32_t head_dim = 0;  // a multiple of 8
};

// Bytes of one unit: a chunk's coarse part, or a group's part of the fine one.
inline size_t UnitBytes(SummaryForm form, uint32_t head_dim) {
  if (form == SummaryForm::kSketch) return SketchCentreBytes(head_dim);
  return (form == SummaryForm::kCuboid ? 2 : 1) * size_t{head_dim} * sizeof(bf16);
}

// scores[h * stride + i] = score of head h against unit i, for `count` units that follow each other. A sketch's unit is
// its centre.
void ScoreUnits(const ScoreQueries& queries, SummaryForm form, const uint8_t* units, uint32_t count, float* scores,
                size_t stride);

// e^x to within 3 percent, monotone, for x <= 0; 0 below -87. A line between the powers of two (Schraudolph 1999): the
// order within a query head is exact, and heads are weighed against each other well enough.
inline constexpr float kExpScale = 12102203.2f;                // 2^23 / ln 2
inline constexpr float kExpBias = 1065353216.0f - 366393.0f;  // 127 * 2^23, less what centres the error
float RoughExp(float x);

// pooled[i] = mean over the heads of softmax(scores of the head)[i], i < count, by RoughExp. Destroys `scores`
// [heads][stride].
void PoolSoftmax(float* scores, uint32_t heads, uint32_t count, size_t stride, float* pooled);

// out[i] = in[i] * scale
void ToFloats(const bf16* in, size_t count, float scale, float* out);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SCORE_H_
