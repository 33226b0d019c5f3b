#include "router/index/score.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/kv/sketch.h"

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

// Channels [x, x + lanes) of a unit's first vector.
template <SummaryForm kForm, class D>
HWY_INLINE hn::Vec<D> LoadChannels(D d, const uint8_t* unit, uint32_t x) {
  if constexpr (kForm == SummaryForm::kSketch) {
    const hn::Rebind<int8_t, D> d8;
    const hn::Rebind<int32_t, D> d32;
    return hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, reinterpret_cast<const int8_t*>(unit) + x)));
  } else {
    return LoadBf16(d, reinterpret_cast<const bf16*>(unit) + x);
  }
}

// kHeads (1 to 4) query heads at a time, so that each unit is converted once for all of them.
template <uint32_t kHeads, SummaryForm kForm, class D>
HWY_INLINE void ScoreHeads(D d, const float* queries, uint32_t head_dim, const uint8_t* units, uint32_t count,
                           float* scores, size_t stride) {
  constexpr bool kAbs = kForm == SummaryForm::kCuboid;
  const size_t unit_bytes = UnitBytes(kForm, head_dim);
  for (uint32_t i = 0; i < count; ++i, units += unit_bytes) {
    hn::Vec<D> sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (uint32_t x = 0; x < head_dim; x += hn::Lanes(d)) {
      const auto u0 = LoadChannels<kForm>(d, units, x);
      const auto u1 = kAbs ? LoadBf16(d, reinterpret_cast<const bf16*>(units) + head_dim + x) : u0;
      for (uint32_t h = 0; h < kHeads; ++h) {
        const auto q = hn::LoadU(d, queries + h * size_t{head_dim} + x);
        sum[h] = hn::MulAdd(q, u0, sum[h]);
        if (kAbs) sum[h] = hn::MulAdd(hn::Abs(q), u1, sum[h]);
      }
    }
    float sums[4], scale = 1;
    SumFour(d, sum, sums);
    if (kForm == SummaryForm::kSketch) std::memcpy(&scale, units + head_dim, sizeof(scale));
    for (uint32_t h = 0; h < kHeads; ++h) scores[h * stride + i] = sums[h] * scale;
  }
}

template <SummaryForm kForm, class D>
HWY_INLINE void ScoreAllHeads(D d, const ScoreQueries& q, const uint8_t* units, uint32_t count, float* scores,
                              size_t stride) {
  for (uint32_t h = 0; h < q.heads; h += 4) {
    const float* queries = q.data + h * size_t{q.head_dim};
    float* out = scores + h * stride;
    switch (q.heads - h) {
      case 1: ScoreHeads<1, kForm>(d, queries, q.head_dim, units, count, out, stride); break;
      case 2: ScoreHeads<2, kForm>(d, queries, q.head_dim, units, count, out, stride); break;
      case 3: ScoreHeads<3, kForm>(d, queries, q.head_dim, units, count, out, stride); break;
      default: ScoreHeads<4, kForm>(d, queries, q.head_dim, units, count, out, stride); break;
    }
  }
}

template <SummaryForm kForm>
HWY_INLINE void ScoreByForm(const ScoreQueries& q, const uint8_t* units, uint32_t count, float* scores, size_t stride) {
  const hn::CappedTag<float, 16> wide;
  const hn::CappedTag<float, 8> narrow;
  if (q.head_dim % hn::Lanes(wide) == 0) {
    ScoreAllHeads<kForm>(wide, q, units, count, scores, stride);
  } else {
    ScoreAllHeads<kForm>(narrow, q, units, count, scores, stride);
  }
}

void ScoreUnitsSimd(const ScoreQueries& q, SummaryForm form, const uint8_t* units, uint32_t count, float* scores,
                    size_t stride) {
  switch (form) {
    case SummaryForm::kMean: return ScoreByForm<SummaryForm::kMean>(q, units, count, scores, stride);
    case SummaryForm::kCuboid: return ScoreByForm<SummaryForm::kCuboid>(q, units, count, scores, stride);
    case SummaryForm::kSketch: return ScoreByForm<SummaryForm::kSketch>(q, units, count, scores, stride);
  }
}

// As RoughExp.
template <class D>
HWY_INLINE hn::Vec<D> RoughExpOf(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  const auto bits = hn::MulAdd(x, hn::Set(d, kExpScale), hn::Set(d, kExpBias));
  return hn::BitCast(d, hn::ConvertTo(di, hn::Max(bits, hn::Zero(d))));
}

// pooled[i] = (kAdd: + ) sum over kHeads rows of row[i] * weight
template <uint32_t kHeads, class D>
HWY_INLINE void PoolRows(D d, const float* rows, size_t stride, const float* weights, uint32_t count, bool add,
                         float* pooled) {
  for (uint32_t i = 0; i < count; i += hn::Lanes(d)) {
    auto sum = add ? hn::LoadU(d, pooled + i) : hn::Zero(d);
    for (uint32_t h = 0; h < kHeads; ++h) {
      sum = hn::MulAdd(hn::LoadU(d, rows + h * stride + i), hn::Set(d, weights[h]), sum);
    }
    hn::StoreU(sum, d, pooled + i);
  }
}

// Rows are padded to whole vectors by the caller's stride; what lies behind `count` is overwritten here.
void PoolSoftmaxSimd(float* scores, uint32_t heads, uint32_t count, size_t stride, float* pooled) {
  const hn::CappedTag<float, 16> d;
  const uint32_t lanes = hn::Lanes(d);
  const uint32_t padded = (count + lanes - 1) / lanes * lanes;
  for (uint32_t first = 0; first < heads; first += 4) {
    const uint32_t some = heads - first < 4 ? heads - first : 4;
    float weights[4];
    for (uint32_t h = 0; h < some; ++h) {
      float* row = scores + (first + h) * stride;
      for (uint32_t i = count; i < padded; ++i) row[i] = -3e38f;
      auto top = hn::Set(d, -3e38f);
      for (uint32_t i = 0; i < padded; i += lanes) top = hn::Max(top, hn::LoadU(d, row + i));
      top = hn::MaxOfLanes(d, top);
      auto sum = hn::Zero(d);
      for (uint32_t i = 0; i < padded; i += lanes) {
        const auto e = RoughExpOf(d, hn::Sub(hn::LoadU(d, row + i), top));
        hn::StoreU(e, d, row + i);
        sum = hn::Add(sum, e);
      }
      weights[h] = 1.0f / (hn::GetLane(hn::SumOfLanes(d, sum)) * static_cast<float>(heads));
    }
    const float* rows = scores + first * stride;
    switch (some) {
      case 1: PoolRows<1>(d, rows, stride, weights, padded, first > 0, pooled); break;
      case 2: PoolRows<2>(d, rows, stride, weights, padded, first > 0, pooled); break;
      case 3: PoolRows<3>(d, rows, stride, weights, padded, first > 0, pooled); break;
      default: PoolRows<4>(d, rows, stride, weights, padded, first > 0, pooled); break;
    }
  }
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
HWY_EXPORT(PoolSoftmaxSimd);

void ScoreUnits(const ScoreQueries& queries, SummaryForm form, const uint8_t* units, uint32_t count, float* scores,
                size_t stride) {
  HWY_DYNAMIC_DISPATCH(ScoreUnitsSimd)(queries, form, units, count, scores, stride);
}

void PoolSoftmax(float* scores, uint32_t heads, uint32_t count, size_t stride, float* pooled) {
  HWY_DYNAMIC_DISPATCH(PoolSoftmaxSimd)(scores, heads, count, stride, pooled);
}

void ToFloats(const bf16* in, size_t count, float scale, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = ToFloat(in[i]) * scale;
}

}  // namespace hga
#endif  // HWY_ONCE
