// Products of 16-bit lanes, added up by pairs. For Highway's targets but the scalar one.
#if defined(HGA_PAIR_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HGA_PAIR_SUMS_INL_H_
#undef HGA_PAIR_SUMS_INL_H_
#else
#define HGA_PAIR_SUMS_INL_H_
#endif

#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR
HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Whether products of pairs and their addition can be one instruction (AVX-512 VNNI), and whether this CPU has it, of
// which Highway's targets say nothing.
constexpr bool kMayFusePairSums = HWY_TARGET == HWY_AVX3;
HWY_INLINE bool FusesPairSums() {
#if HWY_TARGET == HWY_AVX3
  return __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

// Sums of the products of neighbouring 16-bit lanes, one for each two of them. kFused: only where FusesPairSums.
template <class D, bool kFused = false>
class PairSums {
 public:
  using V = hn::Vec<hn::Repartition<int16_t, D>>;
  HWY_INLINE PairSums() : a_(hn::Zero(D())), b_(a_) {}
  HWY_INLINE void Add(V x, V y) {
#if HWY_TARGET == HWY_AVX3
    if constexpr (kFused) {
      asm("vpdpwssd %2, %1, %0" : "+v"(a_.raw) : "v"(x.raw), "v"(y.raw));
      return;
    }
#endif
    a_ = hn::ReorderWidenMulAccumulate(D(), x, y, a_, b_);
#if HWY_ARCH_X86
    // gcc would make all products first, and add them in an order of its own, from memory.
    asm("" : "+v"(a_.raw));
#endif
  }
  HWY_INLINE hn::Vec<D> Get() const { return hn::RearrangeToOddPlusEven(a_, b_); }

 private:
  hn::Vec<D> a_, b_;  // the second is not used on x86
};

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET != HWY_SCALAR

#endif  // per-target include guard
