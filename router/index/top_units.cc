#include "router/index/top_units.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "router/index/top_units.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Positive floats sort like their bits as signed numbers. Copies the bits of the positive scores; returns how many, and the largest.
uint32_t PositiveBitsSimd(const float* scores, uint32_t count, int32_t* out, int32_t* largest) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const uint32_t lanes = hn::Lanes(d);
  uint32_t kept = 0, i = 0;
  auto top = hn::Zero(d);
  for (; i + lanes <= count; i += lanes) {
    const auto v = hn::LoadU(d, scores + i);
    const auto positive = hn::Gt(v, hn::Zero(d));
    top = hn::Max(top, hn::IfThenElseZero(positive, v));
    kept += hn::CompressStore(hn::BitCast(di, v), hn::RebindMask(di, positive), di, out + kept);
  }
  float most = hn::GetLane(hn::MaxOfLanes(d, top));
  for (; i < count; ++i) {
    if (!(scores[i] > 0)) continue;
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
    kept += hn::CompressStore(v, hn::And(hn::Gt(v, below), hn::Lt(v, end)), d, bits + kept);
  }
  for (; i < count; ++i) {
    if (bits[i] >= low && bits[i] < high) bits[kept++] = bits[i];
  }
  return kept;
}

// Bits of scores[0, count), count at most 64, that are above, and that are equal to, `score`.
void CompareSimd(const float* scores, uint32_t count, float score, uint64_t* above, uint64_t* equal) {
  const hn::CappedTag<float, 64> d;
  const uint32_t lanes = hn::Lanes(d);
  const auto cut = hn::Set(d, score);
  *above = *equal = 0;
  uint32_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto v = hn::LoadU(d, scores + i);
    uint8_t bytes[8] = {};
    uint64_t mask = 0;
    hn::StoreMaskBits(d, hn::Gt(v, cut), bytes);
    std::memcpy(&mask, bytes, sizeof(mask));
    *above |= mask << i;
    std::memset(bytes, 0, sizeof(bytes));
    hn::StoreMaskBits(d, hn::Eq(v, cut), bytes);
    std::memcpy(&mask, bytes, sizeof(mask));
    *equal |= mask << i;
  }
  for (; i < count; ++i) {
    *above |= uint64_t{scores[i] > score} << i;
    *equal |= uint64_t{scores[i] == score} << i;
  }
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

TopCut CutTop(const float* scores, uint32_t count, uint32_t wanted, std::vector<int32_t>* work) {
  constexpr uint32_t kSpare = 64;  // a vector may be stored whole
  if (work->size() < size_t{count} + kSpare) work->resize(size_t{count} + kSpare);
  int32_t* bits = work->data();
  int32_t low = 1, high = 0;
  uint32_t left = HWY_DYNAMIC_DISPATCH(PositiveBitsSimd)(scores, count, bits, &high);
  if (left <= wanted) return {};
  if (wanted == 0) return {3e38f, 0};
  // Bisection of the bits. At least `wanted` are from `low` on, fewer from `high` on; `bits` are those between.
  uint32_t above = 0;
  ++high;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    const uint32_t from = HWY_DYNAMIC_DISPATCH(CountFromSimd)(bits, left, middle);
    if (above + from >= wanted) {
      low = middle;
    } else {
      high = middle;
      above += from;
    }
    left = HWY_DYNAMIC_DISPATCH(KeepBetweenSimd)(bits, left, low, high);
  }
  TopCut cut;
  std::memcpy(&cut.score, &low, sizeof(low));
  cut.ties = wanted - above;
  return cut;
}

uint64_t TakeTop(const float* scores, uint32_t count, TopCut* cut) {
  uint64_t above, equal;
  HWY_DYNAMIC_DISPATCH(CompareSimd)(scores, count, cut->score, &above, &equal);
  while (equal != 0 && cut->ties > 0) {
    const uint64_t first = equal & (~equal + 1);
    above |= first;
    equal ^= first;
    --cut->ties;
  }
  return above;
}

}  // namespace hga
#endif  // HWY_ONCE
