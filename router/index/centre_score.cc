#include "router/index/centre_score.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/kv/sketch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "router/index/centre_score.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "router/index/sum_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void RoundSimd(const float* values, float scale, uint32_t count, int16_t* out) {
  const hn::CappedTag<float, 8> d;
  const hn::Rebind<int16_t, decltype(d)> d16;
  for (uint32_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto scaled = hn::Mul(hn::LoadU(d, values + i), hn::Set(d, scale));
    hn::StoreU(hn::DemoteTo(d16, hn::NearestInt(scaled)), d16, out + i);
  }
}

// What is no number is not the best.
constexpr float kLowest = -3e38f;

HWY_INLINE float ScaleOf(const uint8_t* record, uint32_t head_dim) {
  SketchScales scales;
  std::memcpy(&scales, record + head_dim, sizeof(scales));
  return scales.centre;
}

HWY_INLINE float ScoreOf(int32_t sum, float step, float scale) {
  const float score = static_cast<float>(sum) * (step * scale);
  return score > kLowest ? score : kLowest;
}

#if HWY_TARGET == HWY_SCALAR
void ScoreCentresSimd(const CentreQueries& q, const CentreRun& run, uint32_t count, const CentreRun&, float* scores,
                      size_t stride) {
  const uint8_t* centres = run.centres;
  for (uint32_t i = 0; i < count; ++i, centres += SketchCentreBytes(q.head_dim)) {
    for (uint32_t h = 0; h < q.heads; ++h) {
      const int16_t* query = q.values.data() + size_t{h} * q.head_dim;
      int32_t sum = 0;
      for (uint32_t d = 0; d < q.head_dim; ++d) sum += query[d] * static_cast<int8_t>(centres[d]);
      for (uint32_t e = 0; run.extents != nullptr && e < kExtents; ++e) {
        sum += q.reaches[h * kExtents + e] * run.extents[i * kExtents + e];
      }
      scores[h * stride + i] = ScoreOf(sum, q.steps[h], ScaleOf(centres, q.head_dim));
    }
  }
}
#else
// Sums that stay in registers beside what they are made of.
constexpr uint32_t kMostSums = HWY_TARGET <= HWY_AVX3 ? 16 : 8;
// Centres whose sums lie in the cache until they become scores.
constexpr uint32_t kTogether = 64;

// sums[c * kHeads + h] = query h . centre c, and its reaches . extents c, without their scales, for kCentres that
// follow each other. Room for a multiple of four.
template <uint32_t kHeads, uint32_t kCentres, class D>
HWY_INLINE void SumSome(D d, const int16_t* queries, const int16_t* reaches, uint32_t head_dim, const CentreRun& run,
                        int32_t* sums) {
  const hn::Repartition<int16_t, D> d16;
  const hn::Rebind<int8_t, decltype(d16)> d8;
  constexpr uint32_t kSums = kHeads * kCentres, kPadded = (kSums + 3) / 4 * 4;
  const size_t record = SketchCentreBytes(head_dim);
  // What the second of them is for, the instruction set decides.
  hn::Vec<D> sum[kPadded], more[kPadded];
  for (uint32_t i = 0; i < kPadded; ++i) sum[i] = more[i] = hn::Zero(d);
  for (size_t x = 0; x < head_dim; x += hn::Lanes(d16)) {
    hn::Vec<decltype(d16)> channels[kCentres];
    for (uint32_t c = 0; c < kCentres; ++c) {
      channels[c] = hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const int8_t*>(run.centres) + c * record + x));
    }
    for (uint32_t h = 0; h < kHeads; ++h) {
      const auto query = hn::LoadU(d16, queries + h * head_dim + x);
      for (uint32_t c = 0; c < kCentres; ++c) {
        const uint32_t i = c * kHeads + h;
        sum[i] = hn::ReorderWidenMulAccumulate(d, query, channels[c], sum[i], more[i]);
      }
    }
  }
  for (uint32_t x = 0; run.extents != nullptr && x < kExtents; x += hn::Lanes(d16)) {
    for (uint32_t h = 0; h < kHeads; ++h) {
      const auto reach = hn::LoadU(d16, reaches + h * kExtents + x);
      for (uint32_t c = 0; c < kCentres; ++c) {
        const uint32_t i = c * kHeads + h;
        const auto extents = hn::LoadU(d16, run.extents + c * kExtents + x);
        sum[i] = hn::ReorderWidenMulAccumulate(d, reach, extents, sum[i], more[i]);
      }
    }
  }
  for (uint32_t i = 0; i < kPadded; ++i) sum[i] = hn::RearrangeToOddPlusEven(sum[i], more[i]);
  SumLanes<kPadded>(d, sum, sums);
}

// rows[h] = sums of query h and as many centres as a vector has lanes.
template <uint32_t kHeads, class D>
HWY_INLINE void LoadRows(D d, const int32_t* sums, hn::Vec<D>* rows) {
  if constexpr (kHeads == 1) rows[0] = hn::LoadU(d, sums);
  if constexpr (kHeads == 2) hn::LoadInterleaved2(d, sums, rows[0], rows[1]);
  if constexpr (kHeads == 3) hn::LoadInterleaved3(d, sums, rows[0], rows[1], rows[2]);
  if constexpr (kHeads == 4) hn::LoadInterleaved4(d, sums, rows[0], rows[1], rows[2], rows[3]);
}

HWY_INLINE CentreRun After(const CentreRun& run, uint32_t count, size_t record) {
  return {run.centres + count * record, run.extents == nullptr ? nullptr : run.extents + size_t{count} * kExtents};
}

template <uint32_t kHeads, class D>
HWY_INLINE void ScoreHeads(D d, const CentreQueries& q, uint32_t head, const CentreRun& run, uint32_t count,
                           const CentreRun& next, float* scores, size_t stride) {
  constexpr uint32_t kCentres = std::max(kMostSums / kHeads, 1u);
  const size_t record = SketchCentreBytes(q.head_dim);
  const int16_t* queries = q.values.data() + size_t{head} * q.head_dim;
  const int16_t* reaches = q.reaches.data() + (run.extents == nullptr ? 0 : head * kExtents);
  HWY_ALIGN int32_t sums[kTogether * kHeads + 4];
  HWY_ALIGN float scales[kTogether];
  uint32_t i = 0;
  for (; i + kCentres <= count; i += kCentres) {
    for (size_t b = 0; next.centres != nullptr && b < kCentres * record; b += 64) {
      __builtin_prefetch(next.centres + i * record + b);
    }
    if (next.extents != nullptr) __builtin_prefetch(next.extents + i * kExtents);
    SumSome<kHeads, kCentres>(d, queries, reaches, q.head_dim, After(run, i, record), sums + i * kHeads);
  }
  for (; i < count; ++i) {
    SumSome<kHeads, 1>(d, queries, reaches, q.head_dim, After(run, i, record), sums + i * kHeads);
  }

  for (i = 0; i < count; ++i) scales[i] = ScaleOf(run.centres + i * record, q.head_dim);
  const hn::RebindToFloat<D> df;
  const auto lowest = hn::Set(df, kLowest);
  for (i = 0; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    hn::Vec<D> rows[kHeads];
    LoadRows<kHeads>(d, sums + i * kHeads, rows);
    for (uint32_t h = 0; h < kHeads; ++h) {
      const auto scale = hn::Mul(hn::Set(df, q.steps[head + h]), hn::LoadU(df, scales + i));
      const auto score = hn::Mul(hn::ConvertTo(df, rows[h]), scale);
      hn::StoreU(hn::IfThenElse(hn::Gt(score, lowest), score, lowest), df, scores + h * stride + i);
    }
  }
  for (; i < count; ++i) {
    for (uint32_t h = 0; h < kHeads; ++h) {
      scores[h * stride + i] = ScoreOf(sums[i * kHeads + h], q.steps[head + h], scales[i]);
    }
  }
}

template <class D>
HWY_INLINE void ScoreAllHeads(D d, const CentreQueries& q, const CentreRun& run, uint32_t count, CentreRun next,
                              float* scores, size_t stride) {
  for (uint32_t h = 0; h < q.heads; h += 4, scores += 4 * stride, next = {}) {
    switch (q.heads - h) {
      case 1: ScoreHeads<1>(d, q, h, run, count, next, scores, stride); break;
      case 2: ScoreHeads<2>(d, q, h, run, count, next, scores, stride); break;
      case 3: ScoreHeads<3>(d, q, h, run, count, next, scores, stride); break;
      default: ScoreHeads<4>(d, q, h, run, count, next, scores, stride); break;
    }
  }
}

void ScoreCentresSimd(const CentreQueries& q, const CentreRun& run, uint32_t count, const CentreRun& next,
                      float* scores, size_t stride) {
  const hn::CappedTag<int32_t, kExtents / 2> wide;
  const bool fits = q.head_dim % (2 * hn::Lanes(wide)) == 0;
  const size_t record = SketchCentreBytes(q.head_dim);
  for (uint32_t i = 0; i < count; i += kTogether) {
    const uint32_t some = std::min(count - i, kTogether);
    const CentreRun now = After(run, i, record), after = i + some < count ? After(now, some, record) : next;
    if (fits) {
      ScoreAllHeads(wide, q, now, some, after, scores + i, stride);
    } else {
      ScoreAllHeads(hn::CappedTag<int32_t, 4>(), q, now, some, after, scores + i, stride);
    }
  }
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(RoundSimd);
HWY_EXPORT(ScoreCentresSimd);

void RoundQueries(const float* queries, uint32_t heads, uint32_t head_dim, const SketchDeal* deal, CentreQueries* out) {
  out->heads = heads;
  out->head_dim = head_dim;
  out->values.resize(size_t{heads} * head_dim);
  out->steps.resize(heads);
  out->reaches.resize(deal == nullptr ? 0 : heads * kExtents);
  for (uint32_t h = 0; h < heads; ++h) {
    const float* query = queries + size_t{h} * head_dim;
    float widest = 0, all = 0;
    for (uint32_t d = 0; d < head_dim; ++d) {
      widest = std::max(widest, std::fabs(query[d]));
      all += std::fabs(query[d]);
    }
    const float inverse = kLargestQuery / widest;
    const bool usable = std::isfinite(inverse) && std::isfinite(all);
    out->steps[h] = usable ? widest / kLargestQuery : 0.0f;
    int16_t* values = out->values.data() + size_t{h} * head_dim;
    if (usable) {
      HWY_DYNAMIC_DISPATCH(RoundSimd)(query, inverse, head_dim, values);
    } else {
      std::fill_n(values, head_dim, int16_t{0});
    }
    int16_t* const reaches = out->reaches.data() + h * kExtents;
    for (uint32_t i = 0; deal != nullptr && i < kWideChannels; ++i) {
      const int16_t value = values[deal->wide[i]];
      reaches[i] = std::max<int16_t>(value, 0);
      reaches[kWideChannels + i] = static_cast<int16_t>(-std::min<int16_t>(value, 0));
    }
  }
}

void ScoreCentres(const CentreQueries& queries, const CentreRun& run, uint32_t count, const CentreRun& next,
                  float* scores, size_t stride) {
  HWY_DYNAMIC_DISPATCH(ScoreCentresSimd)(queries, run, count, next, scores, stride);
}

}  // namespace hga
#endif  // HWY_ONCE
