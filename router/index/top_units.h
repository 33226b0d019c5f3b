// The units with the highest scores.
#ifndef HGA_ROUTER_INDEX_TOP_UNITS_H_
#define HGA_ROUTER_INDEX_TOP_UNITS_H_

#include <cstddef>
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

// A score that is likely to be a little below that of the cut, by a sample; 0: none is known. `work` is overwritten.
float GuessCut(const float* scores, uint32_t count, uint32_t wanted, std::vector<int32_t>* work);

// Tightens the cut to the fewest of the best that leave at most `rest` of the sum of all scores. `best` is overwritten.
void CutToShare(const float* scores, size_t count, double rest, std::vector<float>* best, TopCut* cut);

// masks[b]: the bits of scores[b * width, (b + 1) * width) that belong to the best, for `blocks` blocks; width at most
// 64. Takes the ties it uses off the cut.
void TakeTop(const float* scores, uint32_t blocks, uint32_t width, TopCut* cut, uint64_t* masks);

// Mask of a chunk's units to that of their keys.
uint64_t KeysOfUnits(uint64_t units, uint32_t unit_tokens);

// Copies the scores that are at least `least`, and positive, and their places: 64 * block + place in it. skip[b]: bits
// of block b that are left out. Returns how many; there is room for kSpareScores more than all.
inline constexpr uint32_t kSpareScores = 16;
uint32_t KeepFrom(const float* scores, uint32_t blocks, uint32_t width, float least, const uint64_t* skip, float* kept,
                  uint32_t* places);

// The same of shares that are not made first: of unit i the sum (kMax: the largest) of weights[h * stride + i], as a
// number (router/index/score.h), * parts[h], over the heads. least > 0. Reads up to 31 weights behind the last block.
template <bool kMax>
uint32_t KeepShares(const uint16_t* weights, size_t stride, uint32_t heads, const float* parts, uint32_t blocks,
                    uint32_t width, float least, const uint64_t* skip, float* kept, uint32_t* places);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_TOP_UNITS_H_
