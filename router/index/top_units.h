// The units with the highest scores.
#ifndef HGA_ROUTER_INDEX_TOP_UNITS_H_
#define HGA_ROUTER_INDEX_TOP_UNITS_H_

#include <cstdint>
#include <vector>

namespace hga {

// What belongs to the best `wanted` of some scores: all above `score`, and the first `ties` of those equal to it.
struct TopCut {
  float score = 0;
  uint32_t ties = 0;
};

// scores: [count], never negative, not a number counts as 0. Scores of 0 are never among the best: what has no mass is
// not worth reading. `work` is overwritten.
TopCut CutTop(const float* scores, uint32_t count, uint32_t wanted, std::vector<int32_t>* work);

// Bits of scores[0, count), count at most 64, that belong to the best; takes the ties it uses off the cut.
uint64_t TakeTop(const float* scores, uint32_t count, TopCut* cut);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_TOP_UNITS_H_
