// Sums over the lanes of several vectors of floats or 32-bit integers, for kernels that Highway compiles for each
// instruction set: included once for each of them, after hwy/highway.h.
#if defined(HGA_ROUTER_INDEX_SUM_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HGA_ROUTER_INDEX_SUM_LANES_INL_H_
#undef HGA_ROUTER_INDEX_SUM_LANES_INL_H_
#else
#define HGA_ROUTER_INDEX_SUM_LANES_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if !(HWY_TARGET == HWY_SVE || HWY_TARGET == HWY_SVE2 || HWY_TARGET == HWY_RVV || HWY_TARGET == HWY_SCALAR)
// Lane i of each block of four: sum of that block of s[i].
template <class D>
HWY_INLINE hn::Vec<D> SumQuarters(D d, const hn::Vec<D>* s) {
  const hn::Repartition<uint64_t, D> d64;
  const auto ab = hn::Add(hn::InterleaveLower(d, s[0], s[1]), hn::InterleaveUpper(d, s[0], s[1]));
  const auto cd = hn::Add(hn::InterleaveLower(d, s[2], s[3]), hn::InterleaveUpper(d, s[2], s[3]));
  const auto lower = hn::InterleaveLower(d64, hn::BitCast(d64, ab), hn::BitCast(d64, cd));
  const auto upper = hn::InterleaveUpper(d64, hn::BitCast(d64, ab), hn::BitCast(d64, cd));
  return hn::Add(hn::BitCast(d, lower), hn::BitCast(d, upper));
}
#endif

// sums[i] = sum of the lanes of s[i], i < kCount, a multiple of four. Four or eight at a time: one by one it costs more
// than the products. The order of the additions is the same however many there are.
template <uint32_t kCount, class D>
HWY_INLINE void SumLanes(D d, const hn::Vec<D>* s, hn::TFromD<D>* sums) {
#if HWY_TARGET == HWY_SVE || HWY_TARGET == HWY_SVE2 || HWY_TARGET == HWY_RVV || HWY_TARGET == HWY_SCALAR
  for (uint32_t i = 0; i < kCount; ++i) sums[i] = hn::GetLane(hn::SumOfLanes(d, s[i]));
#else
  constexpr size_t kLanes = hn::MaxLanes(D());
  if constexpr (kLanes > 8 || (kLanes == 8 && kCount % 8 != 0)) {
    const hn::Half<D> half;
    hn::Vec<hn::Half<D>> halves[kCount];
    for (uint32_t i = 0; i < kCount; ++i) halves[i] = hn::Add(hn::LowerHalf(half, s[i]), hn::UpperHalf(half, s[i]));
    SumLanes<kCount>(half, halves, sums);
  } else if constexpr (kLanes == 8) {
    // Lanes of s[i] and s[i + 4] side by side.
    for (uint32_t i = 0; i < kCount; i += 8) {
      hn::Vec<D> halves[4];
      for (uint32_t k = i; k < i + 4; ++k) {
        halves[k - i] = hn::Add(hn::ConcatLowerLower(d, s[k + 4], s[k]), hn::ConcatUpperUpper(d, s[k + 4], s[k]));
      }
      hn::StoreU(SumQuarters(d, halves), d, sums + i);
    }
  } else {
    for (uint32_t i = 0; i < kCount; i += 4) hn::StoreU(SumQuarters(d, s + i), d, sums + i);
  }
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#endif  // HGA_ROUTER_INDEX_SUM_LANES_INL_H_
