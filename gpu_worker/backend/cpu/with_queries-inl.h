// A number of queries as a constant. For Highway's targets but the scalar one.
#if defined(HGA_WITH_QUERIES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HGA_WITH_QUERIES_INL_H_
#undef HGA_WITH_QUERIES_INL_H_
#else
#define HGA_WITH_QUERIES_INL_H_
#endif

#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR
HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

// use(1 to 4, as a constant)
template <class Use>
HWY_INLINE void WithQueries(uint32_t count, const Use& use) {
  switch (count) {
    case 1: return use(std::integral_constant<int, 1>());
    case 2: return use(std::integral_constant<int, 2>());
    case 3: return use(std::integral_constant<int, 3>());
    default: return use(std::integral_constant<int, 4>());
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET != HWY_SCALAR

#endif  // per-target include guard
