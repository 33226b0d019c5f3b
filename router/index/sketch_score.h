// Scores of queries against token sketches (common/kv/sketch.h): a table look-up for four channels of 64 tokens at
// once.
#ifndef HGA_ROUTER_INDEX_SKETCH_SCORE_H_
#define HGA_ROUTER_INDEX_SKETCH_SCORE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/kv/sketch_deal.h"
#include "router/index/score.h"

namespace hga {

// What a block of queries needs to read signs: sums of every sign pattern of four weights (WeighForSketch), as 7 bits.
// weights.y' = step * (sum of entries - zero), where both are shifted to the top of 16 bits.
inline constexpr float kLargestEntry = 127;
struct SketchTables {
  std::vector<uint8_t> entries;  // [heads][head_dim / 4][2][16], each table twice for wide vectors
  std::vector<uint8_t> shift;    // [heads]
  std::vector<int16_t> zero;     // [heads] shifted
  // [heads]: half of step, so that products stay in 16 bits up to 177 nats, and what a^2 is counted with; in steps of
  // weights (kStepsPerNat), scaled to what products of 16 bits leave of them.
  std::vector<float> step, spread;
  std::vector<float> weights, sums;  // work space
};
// For a head whose sums are at most `zero` away from it, but for the rounding of head_dim / 4 entries.
uint32_t SketchSumShift(uint32_t zero, uint32_t head_dim);
// deal: nullptr: bits of rotated channels.
void MakeSketchTables(const ScoreQueries& queries, const SketchDeal* deal, SketchTables* tables);

// Records that are fetched from memory while one is scored: so many further on.
inline constexpr uint32_t kRecordsAhead = 3;
// What the kernel takes at a time: factors of so many heads and chunks are made together.
inline constexpr uint32_t kHeadsOfCall = 16, kChunksOfCall = 64;
// For heads [first, first + some): weights[h * stride + chunk_tokens * i + t] = what the score of q_(first + h) and key
// t of chunk i (common/kv/sketch.h) weighs beside references[h], for `count` chunks, whose centres follow each other.
// In integers of 16 bits, to a few steps of a weight. records: [count + kRecordsAhead] of the chunks' tokens, then of
// what will be scored next, which is not read but must be there. base[h * base_stride + i] = q_(first + h) . centre_i.
// The row needs room for 64 tokens of the last chunk.
void WeighTokens(const SketchTables& tables, uint32_t head_dim, uint32_t first, uint32_t some, const uint8_t* centres,
                 const uint8_t* const* records, uint32_t count, uint32_t chunk_tokens, const float* base,
                 size_t base_stride, const float* references, uint16_t* weights, size_t stride);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SKETCH_SCORE_H_
