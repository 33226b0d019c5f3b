// Scores of queries against summary units: the arithmetic of the selection, vectorised for the CPU at hand.
#ifndef HGA_ROUTER_INDEX_SCORE_H_
#define HGA_ROUTER_INDEX_SCORE_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"
#include "common/kv/summary.h"

namespace hga {

// The query heads of one KV head, for one token.
struct ScoreQueries {
  const float* data = nullptr;  // [heads][head_dim], softmax scale applied
  uint32_t heads = 0;
  uint32_t head_dim = 0;  // a multiple of 8
};

// scores[h * stride + i] = score of head h against unit i, for `count` units that follow each other. form: kMean or
// kCuboid.
void ScoreUnits(const ScoreQueries& queries, SummaryForm form, const bf16* units, uint32_t count, float* scores,
                size_t stride);

// pooled[i] = mean over the heads of softmax(scores of the head)[i], i < count. Destroys `scores` [heads][stride].
void PoolSoftmax(float* scores, uint32_t heads, uint32_t count, size_t stride, float* pooled);

// out[i] = in[i] * scale
void ToFloats(const bf16* in, size_t count, float scale, float* out);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SCORE_H_
