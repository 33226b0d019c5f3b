#include "router/index/score.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "router/index/score.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"

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

// kHeads (1 to 4) query heads at a time, so that each unit is converted once for all of them.
template <uint32_t kHeads, bool kAbs, class D>
HWY_INLINE void ScoreHeads(D d, const float* queries, uint32_t head_dim, const bf16* units, uint32_t count,
                           float* scores, size_t stride) {
  const size_t unit = (kAbs ? 2 : 1) * size_t{head_dim};
  for (uint32_t i = 0; i < count; ++i, units += unit) {
    hn::Vec<D> sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (uint32_t x = 0; x < head_dim; x += hn::Lanes(d)) {
      const auto u0 = LoadBf16(d, units + x);
      const auto u1 = kAbs ? LoadBf16(d, units + head_dim + x) : u0;
      for (uint32_t h = 0; h < kHeads; ++h) {
        const auto q = hn::LoadU(d, queries + h * size_t{head_dim} + x);
        sum[h] = hn::MulAdd(q, u0, sum[h]);
        if (kAbs) sum[h] = hn::MulAdd(hn::Abs(q), u1, sum[h]);
      }
    }
    float sums[4];
    SumFour(d, sum, sums);
    for (uint32_t h = 0; h < kHeads; ++h) scores[h * stride + i] = sums[h];
  }
}

template <bool kAbs, class D>
HWY_INLINE void ScoreAllHeads(D d, const ScoreQueries& q, const bf16* units, uint32_t count, float* scores,
                              size_t stride) {
  for (uint32_t h = 0; h < q.heads; h += 4) {
    const float* queries = q.data + h * size_t{q.head_dim};
    float* out = scores + h * stride;
    switch (q.heads - h) {
      case 1: ScoreHeads<1, kAbs>(d, queries, q.head_dim, units, count, out, stride); break;
      case 2: ScoreHeads<2, kAbs>(d, queries, q.head_dim, units, count, out, stride); break;
      case 3: ScoreHeads<3, kAbs>(d, queries, q.head_dim, units, count, out, stride); break;
      default: ScoreHeads<4, kAbs>(d, queries, q.head_dim, units, count, out, stride); break;
    }
  }
}

template <bool kAbs>
HWY_INLINE void ScoreByForm(const ScoreQueries& q, const bf16* units, uint32_t count, float* scores, size_t stride) {
  const hn::ScalableTag<float> wide;
  const hn::CappedTag<float, 8> narrow;
  if (q.head_dim % hn::Lanes(wide) == 0) {
    ScoreAllHeads<kAbs>(wide, q, units, count, scores, stride);
  } else {
    ScoreAllHeads<kAbs>(narrow, q, units, count, scores, stride);
  }
}

void ScoreUnitsSimd(const ScoreQueries& q, SummaryForm form, const bf16* units, uint32_t count, float* scores,
                    size_t stride) {
  if (form == SummaryForm::kMean) {
    ScoreByForm<false>(q, units, count, scores, stride);
  } else {
    ScoreByForm<true>(q, units, count, scores, stride);
  }
}

// Rows are padded to whole vectors by the caller's stride; what lies behind `count` is overwritten here.
void PoolSoftmaxSimd(float* scores, uint32_t heads, uint32_t count, size_t stride, float* pooled) {
  const hn::CappedTag<float, 16> d;
  const uint32_t lanes = hn::Lanes(d);
  const uint32_t padded = (count + lanes - 1) / lanes * lanes;
  for (uint32_t i = 0; i < padded; ++i) pooled[i] = 0;
  for (uint32_t h = 0; h < heads; ++h) {
    float* row = scores + h * stride;
    for (uint32_t i = count; i < padded; ++i) row[i] = -3e38f;
    auto top = hn::Set(d, -3e38f);
    for (uint32_t i = 0; i < padded; i += lanes) top = hn::Max(top, hn::LoadU(d, row + i));
    top = hn::MaxOfLanes(d, top);
    auto sum = hn::Zero(d);
    for (uint32_t i = 0; i < padded; i += lanes) {
      const auto e = hn::Exp(d, hn::Sub(hn::LoadU(d, row + i), top));
      hn::StoreU(e, d, row + i);
      sum = hn::Add(sum, e);
    }
    const auto weight = hn::Set(d, 1.0f / (hn::GetLane(hn::SumOfLanes(d, sum)) * static_cast<float>(heads)));
    for (uint32_t i = 0; i < padded; i += lanes) {
      hn::StoreU(hn::MulAdd(hn::LoadU(d, row + i), weight, hn::LoadU(d, pooled + i)), d, pooled + i);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(ScoreUnitsSimd);
HWY_EXPORT(PoolSoftmaxSimd);

void ScoreUnits(const ScoreQueries& queries, SummaryForm form, const bf16* units, uint32_t count, float* scores,
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
