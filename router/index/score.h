// Scores of queries against summary units: the arithmetic of the selection, vectorised for the CPU at hand.
#ifndef HGA_ROUTER_INDEX_SCORE_H_
#define HGA_ROUTER_INDEX_SCORE_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"
#include "common/kv/unit.h"

namespace hga {

// The query heads of one KV head, for one token.
struct ScoreQueries {
  const float* data = nullptr;  // [heads][vectors][head_dim], softmax scale applied: the weights of a unit's vectors
  uint32_t heads = 0;
  uint32_t head_dim = 0;  // a multiple of 8
  uint32_t vectors = 1;
};

// out[h][v] = weights of a unit's vector v (common/kv/unit.h). queries: [heads][head_dim]; out:
// [heads][vectors][head_dim].
void WeighQueries(const float* queries, uint32_t heads, const UnitLayout& layout, SecondWeight second, float* out);

// scores[h * stride + i] = score of head h against unit i, for `count` units that follow each other, at any multiple of
// 4 bytes.
void ScoreUnits(const ScoreQueries& queries, const UnitLayout& layout, const uint8_t* units, uint32_t count,
                float* scores, size_t stride);

// --- What scores weigh ---
// e^(score - reference) to within 3.5 percent, by a line between the powers of two (Schraudolph 1999), in 16 bits:
// those of a bf16. They are a logarithm, in 128 steps for each doubling, and a number that can be added up, at once:
// there is no exponential to compute, and half as much to keep as of floats. The reference is the log of the sum of exp
// over what a head attends anyway, which so weighs 1. 0 below 2^-126; all above 2^100 alike.
inline constexpr float kStepsPerNat = 184.66497f;  // 128 / ln 2
// Bits of 1, less what centres the error.
inline constexpr int32_t kWeightOfReference = 127 * 128 - 6;
inline constexpr int32_t kLargestWeight = kWeightOfReference + 100 * 128;
// Rows of weights are read so many at a time: their length is a multiple of it, with zeros at the end.
inline constexpr uint32_t kWeightsAtOnce = 16;
uint16_t WeightOf(float score, float reference);
// Of `count` scores, and the zeros behind them. Reads up to the next multiple as well.
void WeighScores(const float* scores, uint32_t count, float reference, uint16_t* weights);

// How the query heads of a KV head decide together.
enum class Pooling {
  kMeanSoftmax,  // mean over the heads of the softmax over the units
  kMaxSoftmax,   // the largest of them
  kSumLogits,    // softmax of the heads' mean score
};

// Query heads whose softmaxes are pooled together; more are pooled so many at a time.
inline constexpr uint32_t kPooledAtOnce = 4;

// Rows of weights that count, of so many heads': kSumLogits makes one of them.
uint32_t PooledRows(Pooling pooling, uint32_t heads);
// parts[h]: what a weight of 1 is in the share of `heads` query heads, for `some` of them: those of weights
// [some][stride], of units i < count; behind them zeros up to a multiple of kWeightsAtOnce. besides: [some] what the
// head attends besides weighs, which its softmax counts in. kSumLogits needs all heads, and makes one row of them.
void MakeParts(Pooling pooling, uint16_t* weights, uint32_t some, uint32_t heads, uint32_t count, size_t stride,
               const float* besides, float* parts);
// pooled[i]: the share of unit i, up to the next multiple of kWeightsAtOnce, by the rows of query heads [first, first +
// some) and their parts; first is a multiple of kPooledAtOnce, and 0 begins anew.
void PoolSomeHeads(Pooling pooling, const uint16_t* weights, uint32_t first, uint32_t some, uint32_t count,
                   size_t stride, const float* parts, float* pooled);

// The largest of the scores and `least`; what is no number is not.
float LargestOf(const float* scores, uint32_t count, float least);

// log of the sum of weights[i] * e^scores[i], i < count, to within 3 percent of the sum; weights >= 0. -infinity where
// it is nothing or no number. Both are padded to a multiple of 64; the weights there are 0.
float LogSumExp(const float* scores, const float* weights, uint32_t count);

// Whether products are fused with the sums that they are added to: where they are, shares are the same bit for bit.
bool FusesProducts();

// out[i] = in[i] * scale
void ToFloats(const bf16* in, size_t count, float scale, float* out);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SCORE_H_
