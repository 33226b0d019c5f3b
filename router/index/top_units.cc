#include "router/index/top_units.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "absl/numeric/bits.h"

#ifndef HGA_ROUTER_INDEX_TOP_UNITS_TABLE
#define HGA_ROUTER_INDEX_TOP_UNITS_TABLE
namespace hga {

// lanes[bits]: places of the bits that are set, ascending.
struct LanesOfBits {
  uint8_t lanes[256][8] = {};
};
constexpr LanesOfBits MakeLanesOfBits() {
  LanesOfBits table;
  for (uint32_t bits = 0; bits < 256; ++bits) {
    for (uint32_t lane = 0, kept = 0; lane < 8; ++lane) {
      if ((bits >> lane & 1) != 0) table.lanes[bits][kept++] = static_cast<uint8_t>(lane);
    }
  }
  return table;
}
inline constexpr LanesOfBits kLanesOfBits = MakeLanesOfBits();

}  // namespace hga
#endif  // HGA_ROUTER_INDEX_TOP_UNITS_TABLE

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "router/index/top_units.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "router/index/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Bits of a mask of at most 16 lanes.
template <class D>
HWY_INLINE uint64_t BitsOf(D d, hn::Mask<D> mask) {
#if HWY_TARGET == HWY_AVX3
  return mask.raw;  // by way of memory it would be waited for
#else
  uint8_t bytes[8] = {};
  hn::StoreMaskBits(d, mask, bytes);
  // Not as one number: a load that is wider than the store before it waits for that.
  return hn::Lanes(d) <= 8 ? bytes[0] : bytes[0] | bytes[1] << 8;
#endif
}

// The mask of these bits.
template <class D>
HWY_INLINE hn::Mask<D> MaskOf(D d, uint64_t bits) {
#if HWY_TARGET == HWY_AVX3
  return {static_cast<typename hn::Mask<D>::Raw>(bits)};
#else
  const uint8_t bytes[8] = {static_cast<uint8_t>(bits), static_cast<uint8_t>(bits >> 8)};
  return hn::LoadMaskBits(d, bytes);
#endif
}

#if HWY_TARGET == HWY_AVX2
// Places of the bits that are set, ascending. Highway copies its table to the stack at each call (gcc 12).
template <class D>
HWY_INLINE hn::Vec<D> LanesOf(D d, uint64_t bits) {
  const hn::Rebind<uint8_t, D> d8;
  return hn::PromoteTo(d, hn::LoadU(d8, kLanesOfBits.lanes[bits]));
}
#endif

// Stores the lanes of the mask, and what may be overwritten behind them; returns how many. Whole vectors: masked stores
// take longer than all the rest on some CPUs.
template <class D>
HWY_INLINE uint32_t KeepLanes(D d, hn::Vec<D> v, hn::Mask<D> mask, int32_t* out) {
#if HWY_TARGET == HWY_AVX2
  hn::StoreU(hn::TableLookupLanes(v, hn::IndicesFromVec(d, LanesOf(d, BitsOf(d, mask)))), d, out);
#else
  hn::StoreU(hn::Compress(v, mask), d, out);
#endif
  return static_cast<uint32_t>(hn::CountTrue(d, mask));
}

// Positive floats sort like their bits as signed numbers. Copies the bits of the scores from `least` on, if that is
// positive, else of the positive ones; returns how many, and the largest.
uint32_t PositiveBitsSimd(const float* scores, uint32_t count, float least, int32_t* out, int32_t* largest) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const uint32_t lanes = hn::Lanes(d);
  uint32_t kept = 0, i = 0;
  auto top = hn::Zero(d);
  const auto lowest = hn::Set(d, least);
  for (; i + lanes <= count; i += lanes) {
    const auto v = hn::LoadU(d, scores + i);
    const auto positive = hn::And(hn::Gt(v, hn::Zero(d)), hn::Ge(v, lowest));
    top = hn::Max(top, hn::IfThenElseZero(positive, v));
    kept += KeepLanes(di, hn::BitCast(di, v), hn::RebindMask(di, positive), out + kept);
  }
  float most = hn::GetLane(hn::MaxOfLanes(d, top));
  for (; i < count; ++i) {
    if (!(scores[i] > 0 && scores[i] >= least)) continue;
    most = most > scores[i] ? most : scores[i];
    std::memcpy(out + kept++, scores + i, sizeof(float));
  }
  std::memcpy(largest, &most, sizeof(most));
  return kept;
}

// How many of bits[0, count) are at least `limit`.
uint32_t CountFromSimd(const int32_t* bits, uint32_t count, int32_t limit) {
  const hn::ScalableTag<int32_t> d;
  const uint32_t lanes = hn::Lanes(d);
  const auto below = hn::Set(d, limit - 1);
  uint32_t found = 0, i = 0;
  for (; i + lanes <= count; i += lanes) found += hn::CountTrue(d, hn::Gt(hn::LoadU(d, bits + i), below));
  for (; i < count; ++i) found += bits[i] >= limit;
  return found;
}

// Keeps, in place, the bits in [low, high); returns how many.
uint32_t KeepBetweenSimd(int32_t* bits, uint32_t count, int32_t low, int32_t high) {
  const hn::ScalableTag<int32_t> d;
  const uint32_t lanes = hn::Lanes(d);
  const auto below = hn::Set(d, low - 1), end = hn::Set(d, high);
  uint32_t kept = 0, i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto v = hn::LoadU(d, bits + i);
    // What is written behind the kept ones was read already.
    kept += KeepLanes(d, v, hn::And(hn::Gt(v, below), hn::Lt(v, end)), bits + kept);
  }
  for (; i < count; ++i) {
    if (bits[i] >= low && bits[i] < high) bits[kept++] = bits[i];
  }
  return kept;
}

// Per block of `width` scores the bits that are above, and that are equal to, `score`.
void CompareSimd(const float* scores, uint32_t blocks, uint32_t width, float score, uint64_t* above, uint64_t* equal) {
  const hn::CappedTag<float, 16> d;
  const uint32_t lanes = hn::Lanes(d);
  const auto cut = hn::Set(d, score);
  for (uint32_t b = 0; b < blocks; ++b, scores += width) {
    uint64_t more = 0, same = 0;
    uint32_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      const auto v = hn::LoadU(d, scores + i);
      more |= BitsOf(d, hn::Gt(v, cut)) << i;
      same |= BitsOf(d, hn::Eq(v, cut)) << i;
    }
    for (; i < width; ++i) {
      more |= uint64_t{scores[i] > score} << i;
      same |= uint64_t{scores[i] == score} << i;
    }
    above[b] = more;
    equal[b] = same;
  }
}

// As KeepFrom, for the lanes of one vector, `bits` of them, the first at place `first`.
template <class D>
HWY_INLINE uint32_t KeepPlaces(D d, hn::Vec<D> v, uint64_t bits, uint32_t first, float* kept, uint32_t* places) {
  const hn::RebindToSigned<D> di;
  auto* const at = reinterpret_cast<int32_t*>(places);
#if HWY_TARGET == HWY_AVX2
  const auto lanes = LanesOf(di, bits);
  hn::StoreU(hn::TableLookupLanes(v, hn::IndicesFromVec(d, lanes)), d, kept);
  hn::StoreU(hn::Add(lanes, hn::Set(di, static_cast<int32_t>(first))), di, at);
#else
  const auto here = MaskOf(di, bits);
  hn::StoreU(hn::Compress(hn::BitCast(di, v), here), di, reinterpret_cast<int32_t*>(kept));
  // Not Iota of `first`, which gcc 12 writes to the stack lane by lane.
  const auto place = hn::Add(hn::Iota(di, 0), hn::Set(di, static_cast<int32_t>(first)));
  hn::StoreU(hn::Compress(place, here), di, at);
#endif
  return static_cast<uint32_t>(hwy::PopCount(bits));
}

uint32_t KeepFromSimd(const float* scores, uint32_t blocks, uint32_t width, float least, const uint64_t* skip,
                      float* kept, uint32_t* places) {
  const hn::CappedTag<float, 16> d;
  const uint32_t lanes = hn::Lanes(d);
  const uint64_t all_lanes = (uint64_t{1} << lanes) - 1;
  const auto lowest = hn::Set(d, least), zero = hn::Zero(d);
  uint32_t count = 0;
  for (uint32_t b = 0; b < blocks; ++b, scores += width) {
    uint32_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      const auto v = hn::LoadU(d, scores + i);
      const uint64_t bits = BitsOf(d, hn::And(hn::Ge(v, lowest), hn::Gt(v, zero))) & ~skip[b] >> i & all_lanes;
      count += KeepPlaces(d, v, bits, 64 * b + i, kept + count, places + count);
    }
    for (; i < width; ++i) {
      if (!(scores[i] >= least && scores[i] > 0) || (skip[b] >> i & 1) != 0) continue;
      kept[count] = scores[i];
      places[count++] = 64 * b + i;
    }
  }
  return count;
}

// Shares of the units of one vector from weights on.
template <bool kMax, class D>
HWY_INLINE hn::Vec<D> SharesAt(D d, const uint16_t* weights, size_t stride, uint32_t heads, const float* parts) {
  auto share = hn::Zero(d);
  for (uint32_t h = 0; h < heads; ++h) {
    const auto row = LoadUpperHalves(d, weights + h * stride), part = hn::Set(d, parts[h]);
    share = kMax ? hn::Max(share, hn::Mul(row, part)) : hn::MulAdd(row, part, share);
  }
  return share;
}

// kHeads: as many there are, or 0. Hardly any vector has a share to keep: two are looked at together.
template <bool kMax, uint32_t kHeads>
uint32_t KeepSharesOf(const uint16_t* weights, size_t stride, uint32_t all_heads, const float* parts, uint32_t blocks,
                      uint32_t width, float least, const uint64_t* skip, float* kept, uint32_t* places) {
  const hn::CappedTag<float, 16> d;
  const uint32_t lanes = hn::Lanes(d), heads = kHeads > 0 ? kHeads : all_heads;
  const uint64_t all_lanes = (uint64_t{1} << lanes) - 1;
  const auto lowest = hn::Set(d, least);
  uint32_t count = 0;
  for (uint32_t b = 0; b < blocks; ++b, weights += width) {
    const auto keep = [&](hn::Vec<decltype(d)> share, hn::Mask<decltype(d)> reach, uint32_t i) HWY_ATTR {
      const uint64_t of_block = i >= width ? 0 : width - i < lanes ? (uint64_t{1} << (width - i)) - 1 : all_lanes;
      const uint64_t bits = BitsOf(d, reach) & ~(skip[b] >> i) & of_block;
      if (bits != 0) count += KeepPlaces(d, share, bits, 64 * b + i, kept + count, places + count);
    };
    for (uint32_t i = 0; i < width; i += 2 * lanes) {
      const auto first = SharesAt<kMax>(d, weights + i, stride, heads, parts);
      const auto second = SharesAt<kMax>(d, weights + i + lanes, stride, heads, parts);
      const auto reach = hn::Ge(first, lowest), reached = hn::Ge(second, lowest);
      if (hn::AllFalse(d, hn::Or(reach, reached))) continue;
      keep(first, reach, i);
      if (i + lanes < width) keep(second, reached, i + lanes);
    }
  }
  return count;
}

template <bool kMax>
uint32_t KeepSharesSimd(const uint16_t* weights, size_t stride, uint32_t heads, const float* parts, uint32_t blocks,
                        uint32_t width, float least, const uint64_t* skip, float* kept, uint32_t* places) {
  const auto keep = heads == 1   ? KeepSharesOf<kMax, 1>
                    : heads == 2 ? KeepSharesOf<kMax, 2>
                    : heads == 3 ? KeepSharesOf<kMax, 3>
                    : heads == 4 ? KeepSharesOf<kMax, 4>
                                 : KeepSharesOf<kMax, 0>;
  return keep(weights, stride, heads, parts, blocks, width, least, skip, kept, places);
}

uint32_t KeepSharesOfSums(const uint16_t* weights, size_t stride, uint32_t heads, const float* parts, uint32_t blocks,
                          uint32_t width, float least, const uint64_t* skip, float* kept, uint32_t* places) {
  return KeepSharesSimd<false>(weights, stride, heads, parts, blocks, width, least, skip, kept, places);
}
uint32_t KeepSharesOfLargest(const uint16_t* weights, size_t stride, uint32_t heads, const float* parts,
                             uint32_t blocks, uint32_t width, float least, const uint64_t* skip, float* kept,
                             uint32_t* places) {
  return KeepSharesSimd<true>(weights, stride, heads, parts, blocks, width, least, skip, kept, places);
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(PositiveBitsSimd);
HWY_EXPORT(CountFromSimd);
HWY_EXPORT(KeepBetweenSimd);
HWY_EXPORT(CompareSimd);
HWY_EXPORT(KeepFromSimd);
HWY_EXPORT(KeepSharesOfSums);
HWY_EXPORT(KeepSharesOfLargest);

// The largest value that at least `wanted` of bits[0, left) reach, all of them at least `low` and below `high`.
// `above`: how many are above it. By bisection; overwrites `bits`.
int32_t CutBits(int32_t* bits, uint32_t left, int32_t low, int32_t high, uint32_t wanted, uint32_t* above) {
  // At least `wanted` are from `low` on, fewer from `high` on; `bits` are those between.
  *above = 0;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    const uint32_t from = HWY_DYNAMIC_DISPATCH(CountFromSimd)(bits, left, middle);
    if (*above + from >= wanted) {
      low = middle;
    } else {
      high = middle;
      *above += from;
    }
    left = HWY_DYNAMIC_DISPATCH(KeepBetweenSimd)(bits, left, low, high);
  }
  return low;
}

float GuessCut(const float* scores, uint32_t count, uint32_t wanted, std::vector<int32_t>* work) {
  constexpr uint32_t kFewest = 32, kSamples = 2048;
  const uint32_t each = std::max(16u, count / kSamples);
  const uint32_t sampled = count / each;
  const uint32_t rank = wanted / each * 5 / 4 + kFewest;
  if (rank >= sampled) return 0;
  if (work->size() < sampled) work->resize(sampled);
  int32_t* sample = work->data();
  uint32_t kept = 0;
  int32_t high = 0;
  for (uint32_t i = 0; i < sampled; ++i) {
    const float score = scores[i * each + i % each];  // another place in each vector
    if (!(score > 0)) continue;
    std::memcpy(sample + kept, &score, sizeof(score));
    high = std::max(high, sample[kept++]);
  }
  if (rank >= kept) return 0;
  uint32_t above = 0;
  const int32_t bits = CutBits(sample, kept, 1, high + 1, rank + 1, &above);
  float guess;
  std::memcpy(&guess, &bits, sizeof(guess));
  return guess;
}

TopCut CutTop(const float* scores, uint32_t count, uint32_t wanted, std::vector<int32_t>* work) {
  constexpr uint32_t kSpare = 64;  // a vector may be stored whole
  if (wanted == 0) return {3e38f, 0};
  if (work->size() < size_t{count} + kSpare) work->resize(size_t{count} + kSpare);
  int32_t* bits = work->data();
  int32_t low = 1, high = 0;
  const float guess = GuessCut(scores, count, wanted, work);
  uint32_t left = HWY_DYNAMIC_DISPATCH(PositiveBitsSimd)(scores, count, guess, bits, &high);
  if (guess > 0 && left >= wanted) {
    std::memcpy(&low, &guess, sizeof(low));
  } else if (guess > 0) {
    left = HWY_DYNAMIC_DISPATCH(PositiveBitsSimd)(scores, count, 0, bits, &high);
  }
  if (left <= wanted && low == 1) return {};
  uint32_t above = 0;
  low = CutBits(bits, left, low, high + 1, wanted, &above);
  TopCut cut;
  std::memcpy(&cut.score, &low, sizeof(low));
  cut.ties = wanted - above;
  return cut;
}

void CutToShare(const float* scores, size_t count, double rest, std::vector<float>* best, TopCut* cut) {
  double sum = 0;
  best->clear();
  for (size_t i = 0; i < count; ++i) {
    if (!(scores[i] > 0)) continue;
    sum += scores[i];
    if (scores[i] >= cut->score) best->push_back(scores[i]);
  }
  std::sort(best->begin(), best->end(), std::greater<float>());
  double missing = sum - rest;
  for (const float score : *best) {
    if (missing <= 0) {
      *cut = {score, 0};
      return;
    }
    missing -= score;
  }
}

void TakeTop(const float* scores, uint32_t blocks, uint32_t width, TopCut* cut, uint64_t* masks) {
  constexpr uint32_t kAtOnce = 64;
  uint64_t equal[kAtOnce];
  for (uint32_t first = 0; first < blocks; first += kAtOnce, masks += kAtOnce) {
    const uint32_t some = std::min(kAtOnce, blocks - first);
    HWY_DYNAMIC_DISPATCH(CompareSimd)(scores + size_t{first} * width, some, width, cut->score, masks, equal);
    for (uint32_t b = 0; b < some && cut->ties > 0; ++b) {
      for (; equal[b] != 0 && cut->ties > 0; equal[b] &= equal[b] - 1, --cut->ties) {
        masks[b] |= equal[b] & (~equal[b] + 1);
      }
    }
  }
}

uint64_t KeysOfUnits(uint64_t units, uint32_t unit_tokens) {
  if (unit_tokens == 1) return units;
  const uint64_t one = ~uint64_t{0} >> (64 - unit_tokens);
  uint64_t keys = 0;
  for (; units != 0; units &= units - 1) keys |= one << (absl::countr_zero(units) * unit_tokens);
  return keys;
}

uint32_t KeepFrom(const float* scores, uint32_t blocks, uint32_t width, float least, const uint64_t* skip, float* kept,
                  uint32_t* places) {
  return HWY_DYNAMIC_DISPATCH(KeepFromSimd)(scores, blocks, width, least, skip, kept, places);
}

template <bool kMax>
uint32_t KeepShares(const uint16_t* weights, size_t stride, uint32_t heads, const float* parts, uint32_t blocks,
                    uint32_t width, float least, const uint64_t* skip, float* kept, uint32_t* places) {
  const auto keep = kMax ? HWY_DYNAMIC_DISPATCH(KeepSharesOfLargest) : HWY_DYNAMIC_DISPATCH(KeepSharesOfSums);
  return keep(weights, stride, heads, parts, blocks, width, least, skip, kept, places);
}
template uint32_t KeepShares<false>(const uint16_t*, size_t, uint32_t, const float*, uint32_t, uint32_t, float,
                                    const uint64_t*, float*, uint32_t*);
template uint32_t KeepShares<true>(const uint16_t*, size_t, uint32_t, const float*, uint32_t, uint32_t, float,
                                   const uint64_t*, float*, uint32_t*);

}  // namespace hga
#endif  // HWY_ONCE
