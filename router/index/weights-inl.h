// Weights of 16 bits as numbers (router/index/score.h), for kernels that Highway compiles for each instruction set:
// included once for each of them, after hwy/highway.h.
#if defined(HGA_ROUTER_INDEX_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HGA_ROUTER_INDEX_WEIGHTS_INL_H_
#undef HGA_ROUTER_INDEX_WEIGHTS_INL_H_
#else
#define HGA_ROUTER_INDEX_WEIGHTS_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// bf16 is the upper half of a float.
template <class D>
HWY_INLINE hn::Vec<D> LoadUpperHalves(D d, const uint16_t* p) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, p))));
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
