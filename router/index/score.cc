#include "router/index/score.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "router/index/score.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// bf16 is the upper half of a float.
template <class D>
HWY_INLINE hn::Vec<D> LoadBf16(D d, const bf16* p) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)))));
}

// sums[h] = sum of the lanes of s[h]. Four at a time: one by one it costs more than the products.
template <class D>
HWY_INLINE void SumFour(D d, const hn::Vec<D>* s, float* sums) {
#if HWY_TARGET == HWY_SVE || HWY_TARGET == HWY_SVE2 || HWY_TARGET == HWY_RVV || HWY_TARGET == HWY_SCALAR
  for (int h = 0; h < 4; ++h) sums[h] = hn::GetLane(hn::SumOfLanes(d, s[h]));
#else
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> half;
    const hn::Vec<hn::Half<D>> halves[4] = {
        hn::Add(hn::LowerHalf(half, s[0]), hn::UpperHalf(half, s[0])),
        hn::Add(hn::LowerHalf(half, s[1]), hn::UpperHalf(half, s[1])),
        hn::Add(hn::LowerHalf(half, s[2]), hn::UpperHalf(half, s[2])),
        hn::Add(hn::LowerHalf(half, s[3]), hn::UpperHalf(half, s[3]))};
    SumFour(half, halves, sums);
  } else {
    const hn::Repartition<uint64_t, D> d64;
    const auto ab = hn::Add(hn::InterleaveLower(d, s[0], s[1]), hn::InterleaveUpper(d, s[0], s[1]));
    const auto cd = hn::Add(hn::InterleaveLower(d, s[2], s[3]), hn::InterleaveUpper(d, s[2], s[3]));
    const auto lower = hn::InterleaveLower(d64, hn::BitCast(d64, ab), hn::BitCast(d64, cd));
    const auto upper = hn::InterleaveUpper(d64, hn::BitCast(d64, ab), hn::BitCast(d64, cd));
    hn::StoreU(hn::Add(hn::BitCast(d, lower), hn::BitCast(d, upper)), d, sums);
  }
#endif
}

// Channels [x, x + lanes) of a vector.
template <bool kInt8, class D>
HWY_INLINE hn::Vec<D> LoadChannels(D d, const uint8_t* vector, uint32_t x) {
  if constexpr (kInt8) {
    const hn::Rebind<int8_t, D> d8;
    const hn::Rebind<int32_t, D> d32;
    return hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, reinterpret_cast<const int8_t*>(vector) + x)));
  } else {
    return LoadBf16(d, reinterpret_cast<const bf16*>(vector) + x);
  }
}

// kHeads is at most this, so that sums stay in registers; each vector is converted once for all of them.
constexpr uint32_t kMostHeads = 8;

// sums[h] = score of one representative for kHeads query heads, filled up to a multiple of four.
template <uint32_t kHeads, bool kInt8, class D>
HWY_INLINE void ScoreRepresentative(D d, const ScoreQueries& q, const float* queries, const uint8_t* record,
                                    float* sums) {
  const size_t head_floats = size_t{q.vectors} * q.head_dim;
  const size_t vector_bytes = size_t{q.head_dim} * (kInt8 ? 1 : 2);
  constexpr uint32_t kSums = (kHeads + 3) / 4 * 4;
  hn::Vec<D> total[kSums];
  for (uint32_t h = 0; h < kSums; ++h) total[h] = hn::Zero(d);
  for (uint32_t v = 0; v < q.vectors; ++v) {
    hn::Vec<D> sum[kHeads];
    for (uint32_t h = 0; h < kHeads; ++h) sum[h] = hn::Zero(d);
    for (uint32_t x = 0; x < q.head_dim; x += hn::Lanes(d)) {
      const auto u = LoadChannels<kInt8>(d, record + v * vector_bytes, x);
      for (uint32_t h = 0; h < kHeads; ++h) {
        sum[h] = hn::MulAdd(hn::LoadU(d, queries + h * head_floats + v * q.head_dim + x), u, sum[h]);
      }
    }
    float scale = 1;
    if (kInt8) std::memcpy(&scale, record + q.vectors * vector_bytes + v * sizeof(scale), sizeof(scale));
    for (uint32_t h = 0; h < kHeads; ++h) {
      total[h] = kInt8 ? hn::MulAdd(sum[h], hn::Set(d, scale), total[h]) : hn::Add(sum[h], total[h]);
    }
  }
  for (uint32_t h = 0; h < kSums; h += 4) SumFour(d, total + h, sums + h);
}

template <uint32_t kHeads, bool kInt8, class D>
HWY_INLINE void ScoreHeads(D d, const ScoreQueries& q, const float* queries, const UnitLayout& layout,
                           const uint8_t* units, uint32_t count, float* scores, size_t stride) {
  const size_t bias_at = layout.value_bytes() + (kInt8 ? layout.vectors * sizeof(float) : 0);
  for (uint32_t i = 0; i < count; ++i, units += layout.bytes()) {
    float best[kHeads];
    for (uint32_t h = 0; h < kHeads; ++h) best[h] = -3e38f;
    for (uint32_t r = 0; r < layout.representatives; ++r) {
      const uint8_t* record = units + r * layout.representative_bytes;
      float sums[kMostHeads], bias = 0;
      ScoreRepresentative<kHeads, kInt8>(d, q, queries, record, sums);
      if (layout.bias) std::memcpy(&bias, record + bias_at, sizeof(bias));
      for (uint32_t h = 0; h < kHeads; ++h) best[h] = std::max(best[h], sums[h] + bias);
    }
    for (uint32_t h = 0; h < kHeads; ++h) scores[h * stride + i] = best[h];
  }
}

template <bool kInt8, class D>
HWY_INLINE void ScoreAllHeads(D d, const ScoreQueries& q, const UnitLayout& layout, const uint8_t* units,
                              uint32_t count, float* scores, size_t stride) {
  for (uint32_t h = 0; h < q.heads;) {
    const float* queries = q.data + h * size_t{q.vectors} * q.head_dim;
    float* out = scores + h * stride;
    const uint32_t left = q.heads - h, some = left >= kMostHeads ? kMostHeads : left >= 4 ? 4 : left;
    switch (some) {
      case 1: ScoreHeads<1, kInt8>(d, q, queries, layout, units, count, out, stride); break;
      case 2: ScoreHeads<2, kInt8>(d, q, queries, layout, units, count, out, stride); break;
      case 3: ScoreHeads<3, kInt8>(d, q, queries, layout, units, count, out, stride); break;
      case 4: ScoreHeads<4, kInt8>(d, q, queries, layout, units, count, out, stride); break;
      default: ScoreHeads<kMostHeads, kInt8>(d, q, queries, layout, units, count, out, stride); break;
    }
    h += some;
  }
}

void ScoreUnitsSimd(const ScoreQueries& q, const UnitLayout& layout, const uint8_t* units, uint32_t count,
                    float* scores, size_t stride) {
  const hn::CappedTag<float, 16> wide;
  const hn::CappedTag<float, 8> narrow;
  const bool fits = q.head_dim % hn::Lanes(wide) == 0;
  if (layout.int8 && fits) return ScoreAllHeads<true>(wide, q, layout, units, count, scores, stride);
  if (layout.int8) return ScoreAllHeads<true>(narrow, q, layout, units, count, scores, stride);
  if (fits) return ScoreAllHeads<false>(wide, q, layout, units, count, scores, stride);
  ScoreAllHeads<false>(narrow, q, layout, units, count, scores, stride);
}

// As RoughExp.
template <class D>
HWY_INLINE hn::Vec<D> RoughExpOf(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  const auto bits = hn::MulAdd(x, hn::Set(d, kExpScale), hn::Set(d, kExpBias));
  return hn::BitCast(d, hn::ConvertTo(di, hn::Max(bits, hn::Zero(d))));
}

// pooled[i] = sum (kMax: the largest) over kHeads rows of row[i] * weight; and of pooled[i], unless `first`.
template <uint32_t kHeads, bool kMax, class D>
HWY_INLINE void PoolRows(D d, const float* rows, size_t stride, const float* weights, uint32_t count, bool first,
                         float* pooled) {
  for (uint32_t i = 0; i < count; i += hn::Lanes(d)) {
    auto sum = first ? hn::Zero(d) : hn::LoadU(d, pooled + i);
    for (uint32_t h = 0; h < kHeads; ++h) {
      const auto row = hn::LoadU(d, rows + h * stride + i), weight = hn::Set(d, weights[h]);
      sum = kMax ? hn::Max(sum, hn::Mul(row, weight)) : hn::MulAdd(row, weight, sum);
    }
    hn::StoreU(sum, d, pooled + i);
  }
}

template <bool kMax, class D>
HWY_INLINE void PoolSome(D d, const float* rows, uint32_t some, size_t stride, const float* weights, uint32_t count,
                         bool first, float* pooled) {
  switch (some) {
    case 1: return PoolRows<1, kMax>(d, rows, stride, weights, count, first, pooled);
    case 2: return PoolRows<2, kMax>(d, rows, stride, weights, count, first, pooled);
    case 3: return PoolRows<3, kMax>(d, rows, stride, weights, count, first, pooled);
    default: return PoolRows<4, kMax>(d, rows, stride, weights, count, first, pooled);
  }
}

// row[i] = e^(row[i] - largest); returns their sum, and e^(attended - largest) with it.
template <class D>
HWY_INLINE float ExpRow(D d, float* row, uint32_t count, const float* attended) {
  const uint32_t lanes = hn::Lanes(d);
  auto top = hn::Set(d, -3e38f);
  for (uint32_t i = 0; i < count; i += lanes) top = hn::Max(top, hn::LoadU(d, row + i));
  top = hn::MaxOfLanes(d, top);
  auto sum = hn::Zero(d);
  for (uint32_t i = 0; i < count; i += lanes) {
    const auto e = RoughExpOf(d, hn::Sub(hn::LoadU(d, row + i), top));
    hn::StoreU(e, d, row + i);
    sum = hn::Add(sum, e);
  }
  const float besides = attended == nullptr ? 0.0f : std::exp(*attended - hn::GetLane(top));
  return hn::GetLane(hn::SumOfLanes(d, sum)) + besides;
}

// Rows are padded to whole vectors by the caller's stride; what lies behind `count` is overwritten here.
template <bool kMax, class D>
HWY_INLINE void PoolSoftmax(D d, float* scores, uint32_t heads, uint32_t count, uint32_t padded, size_t stride,
                            const float* attended, float* pooled) {
  for (uint32_t first = 0; first < heads; first += 4) {
    const uint32_t some = heads - first < 4 ? heads - first : 4;
    float weights[4];
    for (uint32_t h = 0; h < some; ++h) {
      float* row = scores + (first + h) * stride;
      for (uint32_t i = count; i < padded; ++i) row[i] = -3e38f;
      const float sum = ExpRow(d, row, padded, attended == nullptr ? nullptr : attended + first + h);
      weights[h] = 1.0f / (sum * (kMax ? 1.0f : static_cast<float>(heads)));
    }
    PoolSome<kMax>(d, scores + first * stride, some, stride, weights, padded, first == 0, pooled);
  }
}

void PoolHeadsSimd(Pooling pooling, float* scores, uint32_t heads, uint32_t count, size_t stride, const float* attended,
                   float* pooled) {
  const hn::CappedTag<float, 16> d;
  const uint32_t lanes = hn::Lanes(d);
  const uint32_t padded = (count + lanes - 1) / lanes * lanes;
  if (pooling == Pooling::kMaxSoftmax) {
    return PoolSoftmax<true>(d, scores, heads, count, padded, stride, attended, pooled);
  }
  if (pooling == Pooling::kMeanSoftmax) {
    return PoolSoftmax<false>(d, scores, heads, count, padded, stride, attended, pooled);
  }
  const float share = 1.0f / static_cast<float>(heads);
  const float shares[4] = {share, share, share, share};
  float besides = 0;
  for (uint32_t first = 0; first < heads; first += 4) {
    const uint32_t some = heads - first < 4 ? heads - first : 4;
    PoolSome<false>(d, scores + first * stride, some, stride, shares, padded, first == 0, pooled);
    for (uint32_t h = first; attended != nullptr && h < first + some; ++h) besides += attended[h] * share;
  }
  std::copy_n(pooled, count, scores);
  PoolSoftmax<false>(d, scores, 1, count, padded, stride, attended == nullptr ? nullptr : &besides, pooled);
}

float LogSumExpSimd(const float* scores, const float* weights, uint32_t count) {
  const hn::CappedTag<float, 16> d;
  const uint32_t lanes = hn::Lanes(d);
  const auto lowest = hn::Set(d, -3e38f);
  auto top = lowest;
  for (uint32_t i = 0; i < count; i += lanes) {
    const auto some = hn::Gt(hn::LoadU(d, weights + i), hn::Zero(d));
    top = hn::Max(top, hn::IfThenElse(some, hn::LoadU(d, scores + i), lowest));
  }
  top = hn::MaxOfLanes(d, top);
  auto sum = hn::Zero(d);
  for (uint32_t i = 0; i < count; i += lanes) {
    // What has no weight may lie above the top.
    const auto x = hn::Min(hn::Sub(hn::LoadU(d, scores + i), top), hn::Zero(d));
    sum = hn::MulAdd(RoughExpOf(d, x), hn::LoadU(d, weights + i), sum);
  }
  return hn::GetLane(top) + std::log(hn::GetLane(hn::SumOfLanes(d, sum)));
}

uint32_t FusedSumLanesSimd() {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return static_cast<uint32_t>(hn::Lanes(hn::CappedTag<float, 16>()));
#else
  return 0;
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

float RoughExp(float x) {
  // As the vectors do it: one rounding for product and sum, then to the nearest integer.
  const auto bits = static_cast<int32_t>(std::lrint(std::max(std::fma(x, kExpScale, kExpBias), 0.0f)));
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

HWY_EXPORT(ScoreUnitsSimd);
HWY_EXPORT(PoolHeadsSimd);
HWY_EXPORT(LogSumExpSimd);
HWY_EXPORT(FusedSumLanesSimd);

void WeighQueries(const float* queries, uint32_t heads, const UnitLayout& layout, SecondWeight second, float* out) {
  for (uint32_t h = 0; h < heads; ++h, queries += layout.head_dim) {
    out = std::copy_n(queries, layout.head_dim, out);
    for (uint32_t d = 0; layout.vectors > 1 && d < layout.head_dim; ++d) {
      *out++ = second == SecondWeight::kAbsolute ? std::fabs(queries[d]) : queries[d] * queries[d] / 2;
    }
  }
}

void ScoreUnits(const ScoreQueries& queries, const UnitLayout& layout, const uint8_t* units, uint32_t count,
                float* scores, size_t stride) {
  HWY_DYNAMIC_DISPATCH(ScoreUnitsSimd)(queries, layout, units, count, scores, stride);
}

void PoolHeads(Pooling pooling, float* scores, uint32_t heads, uint32_t count, size_t stride, const float* attended,
               float* pooled) {
  HWY_DYNAMIC_DISPATCH(PoolHeadsSimd)(pooling, scores, heads, count, stride, attended, pooled);
}

float LogSumExp(const float* scores, const float* weights, uint32_t count) {
  const float sum = HWY_DYNAMIC_DISPATCH(LogSumExpSimd)(scores, weights, count);
  return sum > -1e30f && sum < 1e30f ? sum : -std::numeric_limits<float>::infinity();
}

uint32_t FusedSumLanes() { return HWY_DYNAMIC_DISPATCH(FusedSumLanesSimd)(); }

void ToFloats(const bf16* in, size_t count, float scale, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = ToFloat(in[i]) * scale;
}

}  // namespace hga
#endif  // HWY_ONCE
