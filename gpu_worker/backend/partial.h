// Attention over some of a query's keys, kept so that partials over disjoint sets of keys merge into the exact result
// over their union, in any order:
//
//   m = greatest score, l = sum exp(score - m), o = sum exp(score - m) * v     (scores include 1 / sqrt(head_dim))
//
// The partial over no keys is m = -infinity, l = 0; its o has no meaning and is never read. It is the neutral element.
#ifndef HGA_GPU_WORKER_BACKEND_PARTIAL_H_
#define HGA_GPU_WORKER_BACKEND_PARTIAL_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace hga {

template <typename T>
constexpr T EmptyPartialMax() { return -std::numeric_limits<T>::infinity(); }

// Merges (m2, l2, o2) into (m, l, o); o and o2 have head_dim elements.
template <typename T>
void MergePartial(T m2, T l2, const T* o2, uint32_t head_dim, T* m, T* l, T* o) {
  if (m2 == EmptyPartialMax<T>()) return;
  if (*m == EmptyPartialMax<T>()) {
    *m = m2;
    *l = l2;
    std::copy(o2, o2 + head_dim, o);
    return;
  }
  const T top = std::max(*m, m2);
  const T mine = std::exp(*m - top), theirs = std::exp(m2 - top);
  *m = top;
  *l = *l * mine + l2 * theirs;
  for (uint32_t i = 0; i < head_dim; ++i) o[i] = o[i] * mine + o2[i] * theirs;
}

// The attention's result; zeros for a query that saw no key.
template <typename T>
void FinishPartial(T m, T l, const T* o, uint32_t head_dim, T* out) {
  if (m == EmptyPartialMax<T>()) {
    std::fill(out, out + head_dim, T{0});
    return;
  }
  const T scale = T{1} / l;
  for (uint32_t i = 0; i < head_dim; ++i) out[i] = o[i] * scale;
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_PARTIAL_H_
