#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "gpu_worker/backend/cpu/row_kernels.cc"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/highway.h"

#include "gpu_worker/backend/cpu/row_kernels.h"

#include "common/base/prefetch.h"
#include "gpu_worker/backend/cpu/with_queries-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR

float At(const void* row, uint32_t i) { return ToFloat(static_cast<const bf16*>(row)[i]); }

void RowScoresT(const float* queries, uint32_t count, const void* const* k, const void* const*, uint32_t tokens,
                uint32_t head_dim, uint32_t head_pad, float* scores) {
  for (uint32_t q = 0; q < count; ++q) {
    for (uint32_t j = 0; j < tokens; ++j) {
      float sum = 0;
      for (uint32_t i = 0; i < head_dim; ++i) sum += queries[size_t{q} * head_pad + i] * At(k[j], i);
      scores[size_t{q} * kTileKeys + j] = sum;
    }
  }
}

void RowValuesT(const float* weights, const float* keep, uint32_t count, const void* const* v, const void* const*,
                uint32_t tokens, uint32_t head_dim, uint32_t head_pad, float* o) {
  for (uint32_t q = 0; q < count; ++q, o += head_pad) {
    for (uint32_t i = 0; i < head_dim; ++i) {
      o[i] *= keep[q];
      for (uint32_t j = 0; j < tokens; ++j) o[i] += weights[size_t{q} * kTileKeys + j] * At(v[j], i);
    }
  }
}

#else

// bf16 that one cache line holds.
constexpr uint32_t kLineElements = kCacheLine / sizeof(bf16);

HWY_INLINE void PrefetchLine(const void* row, uint32_t first) {
  PrefetchToL2(static_cast<const bf16*>(row) + first);
}

// Two neighbours of a row are the halves of a 32-bit lane, so that unpacking takes one instruction each: a vector of
// those at even places, one of those at odd ones.
template <class D>
HWY_INLINE void LoadPairs(D d, const void* row, uint32_t first, hn::Vec<D>* even, hn::Vec<D>* odd) {
  const hn::RebindToUnsigned<D> du32;
  const hn::Repartition<uint16_t, D> du16;
  const auto both = hn::BitCast(du32, hn::LoadU(du16, static_cast<const uint16_t*>(row) + first));
  *even = hn::BitCast(d, hn::ShiftLeft<16>(both));
  *odd = hn::BitCast(d, hn::And(both, hn::Set(du32, 0xffff0000u)));
}

// J keys at a time, whose sums do not wait for each other. queries: in vectors of even and odd places by turns.
template <int Q, int J, class D>
HWY_INLINE void RowScoresAt(D df, const float* queries, const void* const* k, const void* const* ahead,
                            uint32_t head_dim, float* scores) {
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(df));
  hn::Vec<D> acc[Q][J];
  for (int q = 0; q < Q; ++q) {
    for (int j = 0; j < J; ++j) acc[q][j] = hn::Zero(df);
  }
  for (uint32_t i = 0; i < head_dim; i += 2 * n) {
    if (i % kLineElements == 0) {
      for (int j = 0; j < J; ++j) PrefetchLine(ahead[j], i);
    }
    for (int j = 0; j < J; ++j) {
      hn::Vec<D> even, odd;
      LoadPairs(df, k[j], i, &even, &odd);
      for (int q = 0; q < Q; ++q) {
        const float* at = queries + size_t(q) * head_dim + i;
        acc[q][j] = hn::MulAdd(even, hn::Load(df, at), acc[q][j]);
        acc[q][j] = hn::MulAdd(odd, hn::Load(df, at + n), acc[q][j]);
      }
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int j = 0; j < J; ++j) scores[q * kTileKeys + j] = hn::GetLane(hn::SumOfLanes(df, acc[q][j]));
  }
}

template <int Q, class D>
HWY_INLINE void RowScoresOf(D df, const float* queries, const void* const* k, const void* const* ahead, uint32_t tokens,
                            uint32_t head_dim, uint32_t head_pad, float* scores) {
  constexpr uint32_t kKeys = Q <= 2 ? 4 : 2;
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(df));
  HWY_ALIGN float in_pairs[Q * kMaxHeadDim];
  for (int q = 0; q < Q; ++q) {
    for (uint32_t i = 0; i < head_dim; i += 2 * n) {
      hn::Vec<D> even, odd;
      hn::LoadInterleaved2(df, queries + size_t(q) * head_pad + i, even, odd);
      hn::Store(even, df, in_pairs + size_t(q) * head_dim + i);
      hn::Store(odd, df, in_pairs + size_t(q) * head_dim + i + n);
    }
  }
  uint32_t j = 0;
  for (; j + kKeys <= tokens; j += kKeys) RowScoresAt<Q, kKeys>(df, in_pairs, k + j, ahead + j, head_dim, scores + j);
  for (; j < tokens; ++j) RowScoresAt<Q, 1>(df, in_pairs, k + j, ahead + j, head_dim, scores + j);
}

// V pairs of vectors of each row at a time, from channel `first` on: 2 * V * Q accumulators.
template <int Q, int V, class D>
HWY_INLINE void RowValuesAt(D df, const float* weights, const float* keep, const void* const* v,
                            const void* const* ahead, uint32_t tokens, uint32_t first, uint32_t head_pad, float* o) {
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(df)), end = first + 2 * V * n;
  const uint32_t first_line = (first + kLineElements - 1) / kLineElements * kLineElements;
  hn::Vec<D> even[Q][V], odd[Q][V];
  for (int q = 0; q < Q; ++q) {
    for (int i = 0; i < V; ++i) {
      hn::LoadInterleaved2(df, o + size_t(q) * head_pad + 2 * i * n, even[q][i], odd[q][i]);
      even[q][i] = hn::Mul(hn::Set(df, keep[q]), even[q][i]);
      odd[q][i] = hn::Mul(hn::Set(df, keep[q]), odd[q][i]);
    }
  }
  for (uint32_t j = 0; j < tokens; ++j) {
    for (uint32_t line = first_line; line < end; line += kLineElements) PrefetchLine(ahead[j], line);
    hn::Vec<D> p[Q];
    for (int q = 0; q < Q; ++q) p[q] = hn::Set(df, weights[q * kTileKeys + j]);
    for (int i = 0; i < V; ++i) {
      hn::Vec<D> a, b;
      LoadPairs(df, v[j], first + 2 * i * n, &a, &b);
      for (int q = 0; q < Q; ++q) {
        even[q][i] = hn::MulAdd(p[q], a, even[q][i]);
        odd[q][i] = hn::MulAdd(p[q], b, odd[q][i]);
      }
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int i = 0; i < V; ++i) hn::StoreInterleaved2(even[q][i], odd[q][i], df, o + size_t(q) * head_pad + 2 * i * n);
  }
}

template <int Q, class D>
HWY_INLINE void RowValuesOf(D df, const float* weights, const float* keep, const void* const* v,
                            const void* const* ahead, uint32_t tokens, uint32_t head_dim, uint32_t head_pad,
                            float* o) {
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(df));
  uint32_t i = 0;
  for (; i + 4 * n <= head_dim; i += 4 * n) {
    RowValuesAt<Q, 2>(df, weights, keep, v, ahead, tokens, i, head_pad, o + i);
  }
  for (; i < head_dim; i += 2 * n) RowValuesAt<Q, 1>(df, weights, keep, v, ahead, tokens, i, head_pad, o + i);
}

// use(a tag whose vectors, taken in pairs, fill head_dim, a multiple of 8)
template <class Use>
HWY_INLINE void WithVectorsOf(uint32_t head_dim, const Use& use) {
  const hn::CappedTag<float, 16> wide;
  const hn::CappedTag<float, 8> half;
  if (head_dim % (2 * hn::Lanes(wide)) == 0) return use(wide);
  if (head_dim % (2 * hn::Lanes(half)) == 0) return use(half);
  use(hn::CappedTag<float, 4>());
}

void RowScoresT(const float* queries, uint32_t count, const void* const* k, const void* const* ahead, uint32_t tokens,
                uint32_t head_dim, uint32_t head_pad, float* scores) {
  WithVectorsOf(head_dim, [&](auto df) HWY_ATTR {
    WithQueries(count, [&](auto q) HWY_ATTR {
      RowScoresOf<decltype(q)::value>(df, queries, k, ahead, tokens, head_dim, head_pad, scores);
    });
  });
}

void RowValuesT(const float* weights, const float* keep, uint32_t count, const void* const* v, const void* const* ahead,
                uint32_t tokens, uint32_t head_dim, uint32_t head_pad, float* o) {
  WithVectorsOf(head_dim, [&](auto df) HWY_ATTR {
    WithQueries(count, [&](auto q) HWY_ATTR {
      RowValuesOf<decltype(q)::value>(df, weights, keep, v, ahead, tokens, head_dim, head_pad, o);
    });
  });
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(RowScoresT);
HWY_EXPORT(RowValuesT);

void RowScores(const float* queries, uint32_t count, const void* const* k, const void* const* ahead, uint32_t tokens,
               uint32_t head_dim, uint32_t head_pad, float* scores) {
  HWY_DYNAMIC_DISPATCH(RowScoresT)(queries, count, k, ahead, tokens, head_dim, head_pad, scores);
}
void RowValues(const float* weights, const float* keep, uint32_t count, const void* const* v, const void* const* ahead,
               uint32_t tokens, uint32_t head_dim, uint32_t head_pad, float* o) {
  HWY_DYNAMIC_DISPATCH(RowValuesT)(weights, keep, count, v, ahead, tokens, head_dim, head_pad, o);
}

}  // namespace hga
#endif  // HWY_ONCE
