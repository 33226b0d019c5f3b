#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "gpu_worker/backend/cpu/block_attention.cc"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

#include "gpu_worker/backend/cpu/block_attention.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "common/base/prefetch.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F = hn::CappedTag<float, 16>;
using VF = hn::Vec<F>;

// Queries of a panel: two vectors of them.
HWY_INLINE uint32_t PanelWidth() { return 2 * static_cast<uint32_t>(hn::Lanes(F())); }
constexpr uint32_t kMaxWidth = 2 * hn::MaxLanes(F());
// Broadcast numbers of a call of the innermost loops: with two vectors each, what 16 registers hold.
constexpr uint32_t kAtOnce = 6;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

uint32_t PanelWidthT() { return PanelWidth(); }

// scores[key][query of the panel], of N keys. queries: [head_dim][width].
template <uint32_t N>
HWY_INLINE void Scores(const float* queries, const float* keys, uint32_t head_dim, float* scores) {
  const F df;
  const size_t n = hn::Lanes(df), width = 2 * n;
  VF acc[N][2];
  for (uint32_t k = 0; k < N; ++k) acc[k][0] = acc[k][1] = hn::Zero(df);
  for (uint32_t d = 0; d < head_dim; ++d, queries += width) {
    const VF q0 = hn::LoadU(df, queries), q1 = hn::LoadU(df, queries + n);
    for (uint32_t k = 0; k < N; ++k) {
      const VF x = hn::Set(df, keys[size_t{k} * head_dim + d]);
      acc[k][0] = hn::MulAdd(x, q0, acc[k][0]);
      acc[k][1] = hn::MulAdd(x, q1, acc[k][1]);
    }
  }
  for (uint32_t k = 0; k < N; ++k) {
    hn::StoreU(acc[k][0], df, scores + k * width);
    hn::StoreU(acc[k][1], df, scores + k * width + n);
  }
}

// o[query] = o[query] * keep[query] + sum over keys of weights[key][query] * values[key], of N queries and two vectors
// of channels.
template <uint32_t N>
HWY_INLINE void Values(const float* weights, size_t width, const float* keep, const float* values, uint32_t keys,
                       size_t head_pad, float* o) {
  const F df;
  const size_t n = hn::Lanes(df);
  VF acc[N][2];
  for (uint32_t q = 0; q < N; ++q) {
    const VF k = hn::Set(df, keep[q]);
    acc[q][0] = hn::Mul(k, hn::LoadU(df, o + q * head_pad));
    acc[q][1] = hn::Mul(k, hn::LoadU(df, o + q * head_pad + n));
  }
  for (uint32_t j = 0; j < keys; ++j, values += head_pad, weights += width) {
    const VF v0 = hn::LoadU(df, values), v1 = hn::LoadU(df, values + n);
    for (uint32_t q = 0; q < N; ++q) {
      const VF p = hn::Set(df, weights[q]);
      acc[q][0] = hn::MulAdd(p, v0, acc[q][0]);
      acc[q][1] = hn::MulAdd(p, v1, acc[q][1]);
    }
  }
  for (uint32_t q = 0; q < N; ++q) {
    hn::StoreU(acc[q][0], df, o + q * head_pad);
    hn::StoreU(acc[q][1], df, o + q * head_pad + n);
  }
}

// use(integral constant) with the number of what is left, at most kAtOnce.
template <class Use>
HWY_INLINE void WithCount(uint32_t count, const Use& use) {
  switch (count) {
    case 1: return use(std::integral_constant<uint32_t, 1>());
    case 2: return use(std::integral_constant<uint32_t, 2>());
    case 3: return use(std::integral_constant<uint32_t, 3>());
    case 4: return use(std::integral_constant<uint32_t, 4>());
    case 5: return use(std::integral_constant<uint32_t, 5>());
    default: return use(std::integral_constant<uint32_t, kAtOnce>());
  }
}

// Scores become weights; m and l move on. keep: by how much the old partials are multiplied. All [width].
HWY_INLINE void Softmax(uint32_t keys, float* scores, float* m, float* l, float* keep) {
  const F df;
  const size_t n = hn::Lanes(df), width = 2 * n;
  const VF lowest = hn::Set(df, -100.0f), nothing = hn::Set(df, kNothing);
  for (size_t v = 0; v < width; v += n) {
    const VF old = hn::LoadU(df, m + v);
    VF top = old;
    for (uint32_t k = 0; k < keys; ++k) top = hn::Max(top, hn::LoadU(df, scores + k * width + v));
    // What has seen no key yet has nothing to be taken off.
    const VF from = hn::IfThenElse(hn::Eq(top, nothing), hn::Zero(df), top);
    // e^-100 is below half an ulp of any sum that holds e^0; minus infinity becomes an exact zero.
    const auto exp = [&](VF x) HWY_ATTR {
      x = hn::Sub(x, from);
      return hn::IfThenElseZero(hn::Gt(x, lowest), hn::Exp(df, hn::Max(x, lowest)));
    };
    const VF factor = exp(old);
    VF sum = hn::Mul(hn::LoadU(df, l + v), factor);
    for (uint32_t k = 0; k < keys; ++k) {
      const VF weight = exp(hn::LoadU(df, scores + k * width + v));
      hn::StoreU(weight, df, scores + k * width + v);
      sum = hn::Add(sum, weight);
    }
    hn::StoreU(top, df, m + v);
    hn::StoreU(sum, df, l + v);
    hn::StoreU(factor, df, keep + v);
  }
}

// What queries before its first one see of a key is nothing. begin: the panel's first query.
HWY_INLINE void Hide(const BlockTile& tile, uint32_t begin, uint32_t width, float* scores) {
  for (uint32_t k = 0; k < tile.count; ++k, scores += width) {
    if (tile.first[k] > begin) std::fill_n(scores, std::min(tile.first[k] - begin, width), kNothing);
  }
}

// Of the lines ahead, for each call of Scores.
uint32_t LinesAtOnce(const BlockTile& tile, uint32_t panels) {
  const uint32_t calls = panels * ((tile.count + kAtOnce - 1) / kAtOnce);
  return calls == 0 ? 0 : (tile.ahead_count + calls - 1) / calls;
}

void AttendBlockT(const BlockQueries& queries, const BlockTile& tile, float* weights) {
  const F df;
  const uint32_t width = PanelWidth(), head_dim = queries.head_dim, pad = queries.head_pad;
  const uint32_t step = 2 * static_cast<uint32_t>(hn::Lanes(df));
  const uint32_t earliest = *std::min_element(tile.first, tile.first + tile.count);
  const uint32_t start = earliest / width * width;
  const uint32_t panels = start < queries.count ? (queries.count - start + width - 1) / width : 0;
  const uint32_t lines_at_once = LinesAtOnce(tile, panels);
  uint32_t line = 0;
  for (uint32_t begin = start; begin < queries.count; begin += width) {
    const uint32_t count = std::min(width, queries.count - begin);
    const float* panel = queries.packed + size_t{begin} * head_dim;
    for (uint32_t k = 0; k < tile.count; k += kAtOnce) {
      for (uint32_t end = std::min(line + lines_at_once, tile.ahead_count); line < end; ++line) {
        PrefetchToL2(tile.ahead[line]);
      }
      WithCount(std::min(kAtOnce, tile.count - k), [&](auto keys) HWY_ATTR {
        Scores<keys.value>(panel, tile.keys + size_t{k} * head_dim, head_dim, weights + size_t{k} * width);
      });
    }
    Hide(tile, begin, width, weights);
    alignas(64) float m[kMaxWidth], l[kMaxWidth], keep[kMaxWidth];
    std::fill_n(m, width, kNothing);
    std::fill_n(l, width, 0.0f);
    std::copy_n(queries.m + begin, count, m);
    std::copy_n(queries.l + begin, count, l);
    Softmax(tile.count, weights, m, l, keep);
    std::copy_n(m, count, queries.m + begin);
    std::copy_n(l, count, queries.l + begin);
    for (uint32_t q = 0; q < count; q += kAtOnce) {
      WithCount(std::min(kAtOnce, count - q), [&](auto some) HWY_ATTR {
        for (uint32_t d = 0; d < pad; d += step) {
          Values<some.value>(weights + q, width, keep + q, tile.values + d, tile.count, pad,
                             queries.o + size_t{begin + q} * pad + d);
        }
      });
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(PanelWidthT);
HWY_EXPORT(AttendBlockT);

void PackQueries(const float* queries, uint32_t count, uint32_t head_dim, uint32_t head_pad,
                 std::vector<float>* packed) {
  const uint32_t width = HWY_DYNAMIC_DISPATCH(PanelWidthT)();
  const size_t size = size_t{count + width - 1} / width * width * head_dim;
  if (packed->size() < size) packed->resize(size);
  float* out = packed->data();
  for (uint32_t begin = 0; begin < count; begin += width, out += size_t{width} * head_dim) {
    for (uint32_t q = 0; q < width; ++q) {
      const float* query = queries + size_t{begin + q} * head_pad;
      for (uint32_t d = 0; d < head_dim; ++d) out[size_t{d} * width + q] = begin + q < count ? query[d] : 0.0f;
    }
  }
}

void AttendBlock(const BlockQueries& queries, const BlockTile& tile, std::vector<float>* weights) {
  const size_t size = size_t{kBlockTileKeys} * HWY_DYNAMIC_DISPATCH(PanelWidthT)();
  if (weights->size() < size) weights->resize(size);
  HWY_DYNAMIC_DISPATCH(AttendBlockT)(queries, tile, weights->data());
}

}  // namespace hga
#endif  // HWY_ONCE
