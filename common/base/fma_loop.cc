#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/base/fma_loop.cc"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/highway.h"

#include "common/base/fma_loop.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Ten chains: more than two units with a latency of four or five cycles need, and they fit 16 registers.
FmaWork FmaLoopT(uint64_t rounds) {
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, 0.999f), added = hn::Set(d, 0.001f);  // towards 1: never a slow subnormal
  auto a0 = hn::Set(d, 0.0f), a1 = hn::Set(d, 0.1f), a2 = hn::Set(d, 0.2f), a3 = hn::Set(d, 0.3f);
  auto a4 = hn::Set(d, 0.4f), a5 = hn::Set(d, 0.5f), a6 = hn::Set(d, 0.6f), a7 = hn::Set(d, 0.7f);
  auto a8 = hn::Set(d, 0.8f), a9 = hn::Set(d, 0.9f);
  for (uint64_t i = 0; i < rounds; ++i) {
    a0 = hn::MulAdd(a0, factor, added);
    a1 = hn::MulAdd(a1, factor, added);
    a2 = hn::MulAdd(a2, factor, added);
    a3 = hn::MulAdd(a3, factor, added);
    a4 = hn::MulAdd(a4, factor, added);
    a5 = hn::MulAdd(a5, factor, added);
    a6 = hn::MulAdd(a6, factor, added);
    a7 = hn::MulAdd(a7, factor, added);
    a8 = hn::MulAdd(a8, factor, added);
    a9 = hn::MulAdd(a9, factor, added);
  }
  const auto sum = hn::Add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)),
                           hn::Add(hn::Add(hn::Add(a4, a5), hn::Add(a6, a7)), hn::Add(a8, a9)));
  return {2.0 * 10 * static_cast<double>(hn::Lanes(d)) * static_cast<double>(rounds), hn::GetLane(sum)};
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(FmaLoopT);

FmaWork RunFmaLoop(uint64_t rounds) { return HWY_DYNAMIC_DISPATCH(FmaLoopT)(rounds); }

}  // namespace hga
#endif  // HWY_ONCE
