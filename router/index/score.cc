#include "router/index/score.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "router/index/score.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "router/index/sum_lanes-inl.h"
#include "router/index/weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Channels [x, x + lanes) of a vector.
template <bool kInt8, class D>
HWY_INLINE hn::Vec<D> LoadChannels(D d, const uint8_t* vector, size_t x) {
  if constexpr (kInt8) {
    const hn::Rebind<int8_t, D> d8;
    const hn::Rebind<int32_t, D> d32;
    return hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, reinterpret_cast<const int8_t*>(vector) + x)));
  } else {
    return LoadUpperHalves(d, reinterpret_cast<const uint16_t*>(vector) + x);
  }
}

// Sums that stay in registers beside what they are made of.
constexpr uint32_t kMostSums = HWY_TARGET <= HWY_AVX3 ? 16 : 12;
constexpr uint32_t kMostHeads = HWY_TARGET <= HWY_AVX3 ? 8 : 4;

// out[u * kHeads + h] = score of one representative of unit u for head h; room for a multiple of four. Several units at
// a time, so that a query is loaded once for all of them.
template <uint32_t kHeads, uint32_t kUnits, bool kInt8, class D>
HWY_INLINE void ScoreRepresentatives(D d, const ScoreQueries& q, const float* queries, const uint8_t* records,
                                     size_t unit_bytes, float* out) {
  const size_t vector_bytes = size_t{q.head_dim} * (kInt8 ? 1 : 2);
  constexpr uint32_t kSums = kHeads * kUnits, kPadded = (kSums + 3) / 4 * 4;
  hn::Vec<D> total[kPadded];
  for (uint32_t i = 0; i < kPadded; ++i) total[i] = hn::Zero(d);
  for (uint32_t v = 0; v < q.vectors; ++v) {
    const uint8_t* vectors[kUnits];
    for (uint32_t u = 0; u < kUnits; ++u) vectors[u] = records + u * unit_bytes + v * vector_bytes;
    const float* weights[kHeads];
    for (uint32_t h = 0; h < kHeads; ++h) weights[h] = queries + (size_t{h} * q.vectors + v) * q.head_dim;
    hn::Vec<D> sum[kSums];
    for (uint32_t i = 0; i < kSums; ++i) sum[i] = hn::Zero(d);
    for (size_t x = 0; x < q.head_dim; x += hn::Lanes(d)) {
      hn::Vec<D> channels[kUnits];
      for (uint32_t u = 0; u < kUnits; ++u) channels[u] = LoadChannels<kInt8>(d, vectors[u], x);
      for (uint32_t h = 0; h < kHeads; ++h) {
        const auto weight = hn::LoadU(d, weights[h] + x);
        for (uint32_t u = 0; u < kUnits; ++u) {
          sum[u * kHeads + h] = hn::MulAdd(weight, channels[u], sum[u * kHeads + h]);
        }
      }
    }
    for (uint32_t i = 0; i < kSums; ++i) {
      float scale = 1;
      const uint8_t* scales = records + i / kHeads * unit_bytes + q.vectors * vector_bytes;
      if (kInt8) std::memcpy(&scale, scales + v * sizeof(scale), sizeof(scale));
      total[i] = hn::MulAdd(sum[i], hn::Set(d, scale), total[i]);
    }
  }
  SumLanes<kPadded>(d, total, out);
}

// Of kUnits units that follow each other.
template <uint32_t kHeads, uint32_t kUnits, bool kInt8, class D>
HWY_INLINE void ScoreSome(D d, const ScoreQueries& q, const float* queries, const UnitLayout& layout,
                          const uint8_t* units, float* scores, size_t stride) {
  constexpr uint32_t kPadded = (kHeads * kUnits + 3) / 4 * 4;
  const size_t bias_at = layout.value_bytes() + (kInt8 ? layout.vectors * sizeof(float) : 0);
  const hn::CappedTag<float, 4> d4;
  HWY_ALIGN float best[kPadded], sums[kPadded];
  for (uint32_t i = 0; i < kPadded; ++i) best[i] = -3e38f;
  for (uint32_t r = 0; r < layout.representatives; ++r) {
    const uint8_t* records = units + r * layout.representative_bytes;
    ScoreRepresentatives<kHeads, kUnits, kInt8>(d, q, queries, records, layout.bytes(), sums);
    for (uint32_t u = 0; layout.bias && u < kUnits; ++u) {
      float bias = 0;
      std::memcpy(&bias, records + u * layout.bytes() + bias_at, sizeof(bias));
      for (uint32_t h = 0; h < kHeads; ++h) sums[u * kHeads + h] += bias;
    }
    for (uint32_t i = 0; i < kPadded; i += hn::Lanes(d4)) {
      // In this order: what is no number is not the best.
      hn::Store(hn::Max(hn::Load(d4, sums + i), hn::Load(d4, best + i)), d4, best + i);
    }
  }
  for (uint32_t h = 0; h < kHeads; ++h, scores += stride) {
    for (uint32_t u = 0; u < kUnits; ++u) scores[u] = best[u * kHeads + h];
  }
}

template <uint32_t kHeads, bool kInt8, class D>
HWY_INLINE void ScoreHeads(D d, const ScoreQueries& q, const float* queries, const UnitLayout& layout,
                           const uint8_t* units, uint32_t count, float* scores, size_t stride) {
  // Head sizes that do not fill the widest vectors, and CPUs without any, are rare: not worth the code.
  constexpr bool kWide = hn::MaxLanes(D()) > 1 && hn::MaxLanes(D()) == hn::MaxLanes(hn::CappedTag<float, 16>());
  constexpr uint32_t kUnits = kWide ? std::min(kMostSums / kHeads, 4u) : 1;
  uint32_t i = 0;
  for (; i + kUnits <= count; i += kUnits) {
    ScoreSome<kHeads, kUnits, kInt8>(d, q, queries, layout, units + i * layout.bytes(), scores + i, stride);
  }
  for (; i < count; ++i) {
    ScoreSome<kHeads, 1, kInt8>(d, q, queries, layout, units + i * layout.bytes(), scores + i, stride);
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

// e^x to within 3 percent, monotone, for x <= 0; 0 below -87: by a line between the powers of two.
template <class D>
HWY_INLINE hn::Vec<D> RoughExpOf(D d, hn::Vec<D> x) {
  constexpr float kExpScale = 12102203.2f;                // 2^23 / ln 2
  constexpr float kExpBias = 1065353216.0f - 366393.0f;  // 127 * 2^23, less what centres the error
  const hn::RebindToSigned<D> di;
  const auto bits = hn::Max(hn::MulAdd(x, hn::Set(d, kExpScale), hn::Set(d, kExpBias)), hn::Zero(d));
#if HWY_TARGET == HWY_AVX2
  // Highway's conversion has four instructions more for numbers that are too large: there are none.
  return hn::BitCast(d, hn::VFromD<decltype(di)>{_mm256_cvttps_epi32(bits.raw)});
#else
  return hn::BitCast(d, hn::ConvertTo(di, bits));
#endif
}

// As WeightOf, of whole vectors.
void WeighScoresSimd(const float* scores, uint32_t count, float reference, uint16_t* weights) {
  const hn::CappedTag<float, kWeightsAtOnce> d;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const auto steps = hn::Set(d, kStepsPerNat), one = hn::Set(d, static_cast<float>(kWeightOfReference));
  const auto most = hn::Set(d, static_cast<float>(kLargestWeight));
  for (uint32_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto bits = hn::MulAdd(hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, reference)), steps, one);
    // In this order: what is no number weighs nothing.
    const auto weight = hn::Min(hn::Max(bits, hn::Zero(d)), most);
    hn::StoreU(hn::DemoteTo(d16, hn::NearestInt(weight)), d16, weights + i);
  }
}

// sums[r] = sum of kRows rows of weights. In kWeightsAtOnce lanes, whatever the vectors: the same bits on every CPU.
template <uint32_t kRows, class D>
HWY_INLINE void SumRows(D d, const uint16_t* rows, size_t stride, uint32_t count, float* sums) {
  constexpr uint32_t kParts = kWeightsAtOnce / hn::MaxLanes(D());
  hn::Vec<D> sum[kRows][kParts];
  for (uint32_t r = 0; r < kRows; ++r) {
    for (uint32_t p = 0; p < kParts; ++p) sum[r][p] = hn::Zero(d);
  }
  for (uint32_t i = 0; i < count; i += kWeightsAtOnce) {
    for (uint32_t r = 0; r < kRows; ++r) {
      for (uint32_t p = 0; p < kParts; ++p) {
        sum[r][p] = hn::Add(sum[r][p], LoadUpperHalves(d, rows + r * stride + i + p * hn::Lanes(d)));
      }
    }
  }
  for (uint32_t r = 0; r < kRows; ++r) {
    float lanes[kWeightsAtOnce];
    for (uint32_t p = 0; p < kParts; ++p) hn::StoreU(sum[r][p], d, lanes + p * hn::Lanes(d));
    for (uint32_t step = kWeightsAtOnce / 2; step > 0; step /= 2) {
      for (uint32_t l = 0; l < step; ++l) lanes[l] += lanes[l + step];
    }
    sums[r] = lanes[0];
  }
}

template <class D>
HWY_INLINE void SumSome(D d, const uint16_t* rows, uint32_t some, size_t stride, uint32_t count, float* sums) {
  switch (some) {
    case 1: return SumRows<1>(d, rows, stride, count, sums);
    case 2: return SumRows<2>(d, rows, stride, count, sums);
    case 3: return SumRows<3>(d, rows, stride, count, sums);
    default: return SumRows<4>(d, rows, stride, count, sums);
  }
}

// pooled[i] = sum (kMax: the largest) over kHeads rows of row[i] * share; and of pooled[i], unless `first`.
template <uint32_t kHeads, bool kMax, class D>
HWY_INLINE void PoolRows(D d, const uint16_t* rows, size_t stride, const float* shares, uint32_t count, bool first,
                         float* pooled) {
  for (uint32_t i = 0; i < count; i += hn::Lanes(d)) {
    auto sum = first ? hn::Zero(d) : hn::LoadU(d, pooled + i);
    for (uint32_t h = 0; h < kHeads; ++h) {
      const auto row = LoadUpperHalves(d, rows + h * stride + i), share = hn::Set(d, shares[h]);
      sum = kMax ? hn::Max(sum, hn::Mul(row, share)) : hn::MulAdd(row, share, sum);
    }
    hn::StoreU(sum, d, pooled + i);
  }
}

template <bool kMax, class D>
HWY_INLINE void PoolSome(D d, const uint16_t* rows, uint32_t some, size_t stride, const float* shares, uint32_t count,
                         bool first, float* pooled) {
  switch (some) {
    case 1: return PoolRows<1, kMax>(d, rows, stride, shares, count, first, pooled);
    case 2: return PoolRows<2, kMax>(d, rows, stride, shares, count, first, pooled);
    case 3: return PoolRows<3, kMax>(d, rows, stride, shares, count, first, pooled);
    default: return PoolRows<4, kMax>(d, rows, stride, shares, count, first, pooled);
  }
}

// As PoolSomeHeads, whose parts are known.
template <bool kMax>
HWY_INLINE void PoolSoftmaxes(const uint16_t* weights, uint32_t begin, uint32_t some, uint32_t count, size_t stride,
                              const float* parts, float* pooled) {
  const hn::CappedTag<float, kWeightsAtOnce> d;
  for (uint32_t done = 0; done < some; done += kPooledAtOnce) {
    const uint32_t now = std::min(some - done, kPooledAtOnce);
    PoolSome<kMax>(d, weights + done * stride, now, stride, parts + done, count, begin + done == 0, pooled);
  }
}

void PoolSoftmaxesSimd(bool largest, const uint16_t* weights, uint32_t first, uint32_t some, uint32_t count,
                       size_t stride, const float* parts, float* pooled) {
  if (largest) {
    PoolSoftmaxes<true>(weights, first, some, count, stride, parts, pooled);
  } else {
    PoolSoftmaxes<false>(weights, first, some, count, stride, parts, pooled);
  }
}

void SumRowsSimd(const uint16_t* weights, uint32_t rows, uint32_t count, size_t stride, float* sums) {
  const hn::CappedTag<float, kWeightsAtOnce> d;
  for (uint32_t done = 0; done < rows; done += kPooledAtOnce) {
    SumSome(d, weights + done * stride, std::min(rows - done, kPooledAtOnce), stride, count, sums + done);
  }
}

float LargestOfSimd(const float* scores, uint32_t count, float least) {
  const hn::CappedTag<float, 16> d;
  const uint32_t lanes = hn::Lanes(d);
  auto top = hn::Set(d, least);
  uint32_t i = 0;
  // In this order: what is no number is not the largest.
  for (; i + lanes <= count; i += lanes) top = hn::Max(hn::LoadU(d, scores + i), top);
  float largest = hn::GetLane(hn::MaxOfLanes(d, top));
  for (; i < count; ++i) largest = scores[i] > largest ? scores[i] : largest;
  return largest;
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

bool FusesProductsSimd() {
#if HWY_ARCH_X86
  return HWY_TARGET <= HWY_AVX2;
#else
  return false;
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(ScoreUnitsSimd);
HWY_EXPORT(WeighScoresSimd);
HWY_EXPORT(PoolSoftmaxesSimd);
HWY_EXPORT(SumRowsSimd);
HWY_EXPORT(LargestOfSimd);
HWY_EXPORT(LogSumExpSimd);
HWY_EXPORT(FusesProductsSimd);

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

uint16_t WeightOf(float score, float reference) {
  // In this order: what is no number weighs nothing.
  const float bits = std::fma(score - reference, kStepsPerNat, static_cast<float>(kWeightOfReference));
  return static_cast<uint16_t>(std::lrint(std::min(std::max(0.0f, bits), static_cast<float>(kLargestWeight))));
}

void WeighScores(const float* scores, uint32_t count, float reference, uint16_t* weights) {
  HWY_DYNAMIC_DISPATCH(WeighScoresSimd)(scores, count, reference, weights);
  for (uint32_t i = count; i % kWeightsAtOnce != 0; ++i) weights[i] = 0;
}

float LargestOf(const float* scores, uint32_t count, float least) {
  return HWY_DYNAMIC_DISPATCH(LargestOfSimd)(scores, count, least);
}

uint32_t PooledRows(Pooling pooling, uint32_t heads) { return pooling == Pooling::kSumLogits ? 1 : heads; }

void MakeParts(Pooling pooling, uint16_t* weights, uint32_t some, uint32_t heads, uint32_t count, size_t stride,
               const float* besides, float* parts) {
  const uint32_t padded = (count + kWeightsAtOnce - 1) / kWeightsAtOnce * kWeightsAtOnce;
  const uint32_t rows = PooledRows(pooling, some);
  float beside[1] = {besides[0]};
  if (pooling == Pooling::kSumLogits) {
    // Weights are logarithms.
    for (uint32_t i = 0; i < count; ++i) {
      uint32_t sum = heads / 2;
      for (uint32_t h = 0; h < heads; ++h) sum += weights[h * stride + i];
      weights[i] = static_cast<uint16_t>(sum / heads);
    }
    beside[0] = *std::min_element(besides, besides + heads);
    besides = beside;
  }
  HWY_DYNAMIC_DISPATCH(SumRowsSimd)(weights, rows, padded, stride, parts);
  for (uint32_t h = 0; h < rows; ++h) {
    const float all = (parts[h] + besides[h]) * (pooling == Pooling::kMeanSoftmax ? static_cast<float>(heads) : 1.0f);
    parts[h] = all > 0 ? 1.0f / all : 0.0f;
  }
}

void PoolSomeHeads(Pooling pooling, const uint16_t* weights, uint32_t first, uint32_t some, uint32_t count,
                   size_t stride, const float* parts, float* pooled) {
  const uint32_t padded = (count + kWeightsAtOnce - 1) / kWeightsAtOnce * kWeightsAtOnce;
  HWY_DYNAMIC_DISPATCH(PoolSoftmaxesSimd)
  (pooling == Pooling::kMaxSoftmax, weights, first, PooledRows(pooling, some), padded, stride, parts, pooled);
}

float LogSumExp(const float* scores, const float* weights, uint32_t count) {
  const float sum = HWY_DYNAMIC_DISPATCH(LogSumExpSimd)(scores, weights, count);
  return sum > -1e30f && sum < 1e30f ? sum : -std::numeric_limits<float>::infinity();
}

bool FusesProducts() { return HWY_DYNAMIC_DISPATCH(FusesProductsSimd)(); }

void ToFloats(const bf16* in, size_t count, float scale, float* out) {
  for (size_t i = 0; i < count; ++i) out[i] = ToFloat(in[i]) * scale;
}

}  // namespace hga
#endif  // HWY_ONCE
