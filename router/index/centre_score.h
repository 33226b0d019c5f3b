// Scores of queries against the centres of token sketches (common/kv/sketch.h), for the ranking of all chunks: in whole
// numbers, so the same on every machine.
#ifndef HGA_ROUTER_INDEX_CENTRE_SCORE_H_
#define HGA_ROUTER_INDEX_CENTRE_SCORE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hga {

// Queries in 16 bits: value * step. That is finer than the bf16 that they come in, but for channels below a 256th of the
// query's largest.
inline constexpr float kLargestQuery = 32767;
struct CentreQueries {
  uint32_t heads = 0, head_dim = 0;
  std::vector<int16_t> values;  // [heads][head_dim]
  std::vector<float> steps;     // [heads]; 0: the query is zero or not finite
};
// queries: [heads][head_dim], softmax scale applied; head_dim: a multiple of 8, at most 256.
void RoundQueries(const float* queries, uint32_t heads, uint32_t head_dim, CentreQueries* out);

// scores[h * stride + i] = query h . centre i, of `count` records that follow each other, at multiples of 4 bytes. next:
// as many records that are scored after these; they are fetched from memory meanwhile. nullptr: none.
void ScoreCentres(const CentreQueries& queries, const uint8_t* centres, uint32_t count, const uint8_t* next,
                  float* scores, size_t stride);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_CENTRE_SCORE_H_
