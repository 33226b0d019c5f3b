// Scores of queries against the centres of token sketches (common/kv/sketch.h), for the ranking of all chunks: in whole
// numbers, so the same on every machine.
#ifndef HGA_ROUTER_INDEX_CENTRE_SCORE_H_
#define HGA_ROUTER_INDEX_CENTRE_SCORE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/kv/sketch_deal.h"

namespace hga {

// Queries in 16 bits: value * step. That is finer than the bf16 that they come in, but for channels below a 256th of
// the query's largest.
inline constexpr float kLargestQuery = 32767;
struct CentreQueries {
  uint32_t heads = 0, head_dim = 0;
  std::vector<int16_t> values;  // [heads][head_dim]
  std::vector<float> steps;     // [heads]; 0: the query is zero or not finite
  std::vector<int16_t> reaches;  // [heads][kExtents] what extents are multiplied with: what is above and below zero
};
// queries: [heads][head_dim], softmax scale applied; head_dim: a multiple of 8, at most 256. deal: nullptr: no reaches.
void RoundQueries(const float* queries, uint32_t heads, uint32_t head_dim, const SketchDeal* deal, CentreQueries* out);

// Of chunks that follow each other.
struct CentreRun {
  const uint8_t* centres = nullptr;  // records, at multiples of 4 bytes
  const int16_t* extents = nullptr;  // SketchExtents of each; nullptr: not counted
};

// scores[h * stride + i] = query h . centre i of the `count` of the run, and what their extents add. next: as many that
// are scored after these; they are fetched from memory meanwhile. Nothing in it: none.
void ScoreCentres(const CentreQueries& queries, const CentreRun& run, uint32_t count, const CentreRun& next,
                  float* scores, size_t stride);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_CENTRE_SCORE_H_
