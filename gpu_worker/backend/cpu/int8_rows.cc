#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "gpu_worker/backend/cpu/int8_rows.cc"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/highway.h"

#include "gpu_worker/backend/cpu/int8_rows.h"

#include <algorithm>
#include <cstring>

#include "common/base/prefetch.h"
#include "common/kv/kv_rows.h"
#include "gpu_worker/backend/cpu/pair_sums-inl.h"
#include "gpu_worker/backend/cpu/with_queries-inl.h"

#ifndef HGA_GPU_WORKER_BACKEND_CPU_INT8_ROWS_SCALES
#define HGA_GPU_WORKER_BACKEND_CPU_INT8_ROWS_SCALES
namespace hga {

inline constexpr uint32_t kGroup = kScaledChannels;
inline constexpr uint32_t kMostGroups = kMaxHeadDim / kGroup;
inline constexpr float kMostCode = 32767;

// A scale's byte is a float's exponent.
inline float ScaleValue(uint8_t scale) {
  const uint32_t bits = static_cast<uint32_t>(scale) << 23;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Of a token, from its K.
inline const int8_t* Values(const void* k, uint32_t head_dim) { return static_cast<const int8_t*>(k) + head_dim; }

// Channels [first, first + kGroup) of a row; those behind the row's end are zero, in `padded`.
inline const int8_t* GroupOf(const void* row, uint32_t first, uint32_t head_dim, int8_t* padded) {
  const int8_t* const at = static_cast<const int8_t*>(row) + first;
  if (head_dim - first >= kGroup) return at;
  std::memset(padded, 0, kGroup);
  std::memcpy(padded, at, head_dim - first);
  return padded;
}

}  // namespace hga
#endif  // HGA_GPU_WORKER_BACKEND_CPU_INT8_ROWS_SCALES

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE void PrefetchLine(const void* row, uint32_t first) {
  PrefetchToL2(static_cast<const uint8_t*>(row) + first);
}

void RoundQueriesT(const float* queries, uint32_t count, uint32_t head_pad, int16_t* codes, float* scales) {
  const hn::CappedTag<float, 16> df;
  const hn::RebindToSigned<decltype(df)> d32;
  const hn::Rebind<int16_t, decltype(df)> d16;
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(df));
  for (uint32_t q = 0; q < count; ++q, queries += head_pad, codes += head_pad) {
    auto largest = hn::Zero(df);
    for (uint32_t i = 0; i < head_pad; i += n) largest = hn::Max(largest, hn::Abs(hn::LoadU(df, queries + i)));
    const float most = hn::GetLane(hn::MaxOfLanes(df, largest));
    scales[q] = most / kMostCode;
    const auto inverse = hn::Set(df, most > 0 ? kMostCode / most : 0.0f);
    for (uint32_t i = 0; i < head_pad; i += n) {
      const auto code = hn::NearestInt(hn::Mul(hn::LoadU(df, queries + i), inverse));
      hn::StoreU(hn::DemoteTo(d16, hn::BitCast(d32, code)), d16, codes + i);
    }
  }
}

void Int8RowsToFloatsT(const int8_t* codes, const uint8_t* scales, size_t stride, uint32_t rows, uint32_t head_dim,
                       size_t out_stride, float* out) {
  const hn::CappedTag<float, 8> df;  // head_dim is a multiple of 8
  const hn::RebindToSigned<decltype(df)> d32;
  const hn::Rebind<int8_t, decltype(df)> d8;
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(df));
  for (uint32_t r = 0; r < rows; ++r, codes += stride, scales += stride, out += out_stride) {
    for (uint32_t first = 0; first < head_dim; first += kGroup) {
      const auto scale = hn::Set(df, ScaleValue(scales[first / kGroup]));
      const uint32_t end = std::min(first + kGroup, head_dim);
      for (uint32_t i = first; i < end; i += n) {
        const auto code = hn::PromoteTo(d32, hn::LoadU(d8, codes + i));
        hn::StoreU(hn::Mul(hn::ConvertTo(df, code), scale), df, out + i);
      }
    }
  }
}

#if HWY_TARGET == HWY_SCALAR

void Int8RowScoresT(const int16_t* codes, const float* scales, uint32_t count, const Int8Rows& rows, uint32_t head_dim,
                    uint32_t head_pad, float* scores) {
  for (uint32_t q = 0; q < count; ++q) {
    for (uint32_t j = 0; j < rows.count; ++j) {
      float sum = 0;
      for (uint32_t i = 0; i < head_dim; ++i) {
        sum += ScaleValue(ScalesBehind(rows.k[j], head_dim)[i / kGroup]) * codes[size_t{q} * head_pad + i] *
               static_cast<const int8_t*>(rows.k[j])[i];
      }
      scores[size_t{q} * kTileKeys + j] = sum * scales[q];
    }
  }
}

void Int8RowValuesT(const float* weights, const float* keep, uint32_t count, const Int8Rows& rows, uint32_t head_dim,
                    uint32_t head_pad, float* o) {
  const size_t of_v = ScalesOfRow(head_dim);
  for (uint32_t q = 0; q < count; ++q, o += head_pad) {
    for (uint32_t i = 0; i < head_dim; ++i) {
      o[i] *= keep[q];
      for (uint32_t j = 0; j < rows.count; ++j) {
        const float scale = ScaleValue(ScalesBehind(rows.k[j], head_dim)[of_v + i / kGroup]);
        o[i] += weights[size_t{q} * kTileKeys + j] * scale * Values(rows.k[j], head_dim)[i];
      }
    }
  }
}

#else

// A group's keys and values are as long as a line, and the scales lie behind the last of them: so many lines of the
// next rows are asked for beside the scores of the groups, and one beside the values.
static_assert(2 * kGroup == kCacheLine);

// J keys at a time, whose sums do not wait for each other.
template <int Q, int J>
HWY_INLINE void ScoresAt(const int16_t* codes, const float* scales, const Int8Rows& rows, uint32_t first,
                         uint32_t head_dim, uint32_t head_pad, float* scores) {
  const hn::CappedTag<int16_t, kGroup> d16;
  const hn::Rebind<int8_t, decltype(d16)> d8;
  const hn::RepartitionToWide<decltype(d16)> d32;
  const hn::RebindToFloat<decltype(d32)> df;
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(d16));
  int8_t padded[J][kGroup];
  hn::Vec<decltype(df)> sum[Q][J];
  for (int q = 0; q < Q; ++q) {
    for (int j = 0; j < J; ++j) sum[q][j] = hn::Zero(df);
  }
  for (uint32_t channel = 0; channel < head_dim; channel += kGroup) {
    for (int j = 0; j < J; ++j) {
      PrefetchLine(rows.next[first + j], 2 * channel);
      const int8_t* const key = GroupOf(rows.k[first + j], channel, head_dim, padded[j]);
      PairSums<decltype(d32)> whole[Q];
      for (uint32_t i = 0; i < kGroup; i += n) {
        const auto k = hn::PromoteTo(d16, hn::LoadU(d8, key + i));
        for (int q = 0; q < Q; ++q) {
          whole[q].Add(hn::LoadU(d16, codes + size_t(q) * head_pad + channel + i), k);
        }
      }
      const uint8_t* const scales_of_key = ScalesBehind(rows.k[first + j], head_dim);
      const auto scale = hn::Set(df, ScaleValue(scales_of_key[channel / kGroup]));
      for (int q = 0; q < Q; ++q) sum[q][j] = hn::MulAdd(hn::ConvertTo(df, whole[q].Get()), scale, sum[q][j]);
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int j = 0; j < J; ++j) {
      scores[q * kTileKeys + first + j] = hn::GetLane(hn::SumOfLanes(df, sum[q][j])) * scales[q];
    }
  }
}

template <int Q>
HWY_INLINE void ScoresOf(const int16_t* codes, const float* scales, const Int8Rows& rows, uint32_t head_dim,
                         uint32_t head_pad, float* scores) {
  constexpr uint32_t kKeys = Q <= 2 ? 4 : 2;
  uint32_t j = 0;
  for (; j + kKeys <= rows.count; j += kKeys) ScoresAt<Q, kKeys>(codes, scales, rows, j, head_dim, head_pad, scores);
  for (; j < rows.count; ++j) ScoresAt<Q, 1>(codes, scales, rows, j, head_dim, head_pad, scores);
}

// The weights of some values in one group of channels, rounded: by pairs of rows, and what a code stands for.
template <int Q>
struct RoundedWeights {
  HWY_ALIGN int16_t codes[Q][kRowsAtATime];
  float step[Q];
};

// scales: [kRowsAtATime] of the rows in this group.
template <int Q>
HWY_INLINE void RoundWeights(const float* weights, const float* scales, uint32_t rows, RoundedWeights<Q>* out) {
  const hn::CappedTag<float, 8> df;
  const hn::RebindToSigned<decltype(df)> d32;
  const hn::Rebind<int16_t, decltype(df)> d16;
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(df));
  HWY_ALIGN float scaled[kRowsAtATime];
  for (int q = 0; q < Q; ++q) {
    auto largest = hn::Zero(df);
    for (uint32_t j = 0; j < rows; j += n) {
      const auto weight = hn::Mul(hn::LoadU(df, weights + q * kTileKeys + j), hn::LoadU(df, scales + j));
      hn::Store(weight, df, scaled + j);
      largest = hn::Max(largest, hn::Abs(weight));
    }
    const float most = hn::GetLane(hn::MaxOfLanes(df, largest));
    out->step[q] = most / kMostCode;
    const auto inverse = hn::Set(df, most > 0 ? kMostCode / most : 0.0f);
    for (uint32_t j = 0; j < rows; j += n) {
      const auto code = hn::NearestInt(hn::Mul(hn::Load(df, scaled + j), inverse));
      hn::StoreU(hn::DemoteTo(d16, hn::BitCast(d32, code)), d16, out->codes[q] + j);
    }
  }
}

// Two rows at a time, interleaved, so that a product adds up both. V vectors of channels from `channel` on.
template <int Q, int V>
HWY_INLINE void ValuesAt(const RoundedWeights<Q>& weights, const float* keep, const Int8Rows& rows, uint32_t channel,
                         uint32_t head_dim, uint32_t head_pad, float* o) {
  const hn::CappedTag<int16_t, 16> d16;
  const hn::Rebind<int8_t, decltype(d16)> d8;
  const hn::RepartitionToWide<decltype(d16)> d32;
  const hn::RebindToFloat<decltype(d32)> df;
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(d16)), half = n / 2;
  const uint32_t group = channel / kGroup * kGroup;
  PairSums<decltype(d32)> low[Q][V], high[Q][V];
  for (uint32_t j = 0; j < rows.count; j += 2) {
    if (channel == 0) {
      PrefetchLine(ScalesBehind(rows.next[j], head_dim), 2 * ScalesOfRow(head_dim) - 1);
      PrefetchLine(ScalesBehind(rows.next[j + 1], head_dim), 2 * ScalesOfRow(head_dim) - 1);
    }
    int8_t padded[2][kGroup];
    const int8_t* const a = GroupOf(Values(rows.k[j], head_dim), group, head_dim, padded[0]) + (channel - group);
    const int8_t* const b = GroupOf(Values(rows.k[j + 1], head_dim), group, head_dim, padded[1]) + (channel - group);
    hn::Vec<decltype(d32)> pair[Q];
    for (int q = 0; q < Q; ++q) {
      int32_t both;
      std::memcpy(&both, weights.codes[q] + j, sizeof(both));
      pair[q] = hn::Set(d32, both);
    }
    for (int v = 0; v < V; ++v) {
      const auto first = hn::PromoteTo(d16, hn::LoadU(d8, a + v * n));
      const auto second = hn::PromoteTo(d16, hn::LoadU(d8, b + v * n));
      const auto lower = hn::InterleaveLower(d16, first, second), upper = hn::InterleaveUpper(d16, first, second);
      for (int q = 0; q < Q; ++q) {
        const auto weight = hn::BitCast(d16, pair[q]);
        low[q][v].Add(lower, weight);
        high[q][v].Add(upper, weight);
      }
    }
  }
  // Interleaving keeps to blocks of 128 bits: of each, the lower half holds four channels, the upper the next four.
  const hn::CappedTag<float, 4> df4;
  HWY_ALIGN float lows[16], highs[16];
  for (int q = 0; q < Q; ++q, o += head_pad) {
    const auto step = hn::Set(df4, weights.step[q]), kept = hn::Set(df4, keep[q]);
    for (int v = 0; v < V; ++v) {
      hn::Store(hn::ConvertTo(df, low[q][v].Get()), df, lows);
      hn::Store(hn::ConvertTo(df, high[q][v].Get()), df, highs);
      for (uint32_t i = 0; i < half; i += 4) {
        float* const at = o + channel + v * n + 2 * i;
        hn::StoreU(hn::MulAdd(hn::Load(df4, lows + i), step, hn::Mul(hn::LoadU(df4, at), kept)), df4, at);
        hn::StoreU(hn::MulAdd(hn::Load(df4, highs + i), step, hn::Mul(hn::LoadU(df4, at + 4), kept)), df4, at + 4);
      }
    }
  }
}

template <int Q>
HWY_INLINE void ValuesOf(const float* weights, const float* keep, const Int8Rows& rows, uint32_t head_dim,
                         uint32_t head_pad, float* o) {
  const uint32_t groups = static_cast<uint32_t>(ScalesOfRow(head_dim)), padded = (rows.count + 7) / 8 * 8;
  const uint32_t n = static_cast<uint32_t>(hn::Lanes(hn::CappedTag<int16_t, 16>()));
  HWY_ALIGN float scales[kMostGroups][kRowsAtATime];
  for (uint32_t j = 0; j < padded; ++j) {
    const uint8_t* const of_values = ScalesBehind(rows.k[j], head_dim) + groups;
    for (uint32_t g = 0; g < groups; ++g) scales[g][j] = ScaleValue(of_values[g]);
  }
  RoundedWeights<Q> rounded;
  for (uint32_t g = 0; g < groups; ++g) {
    RoundWeights<Q>(weights, scales[g], padded, &rounded);
    const uint32_t end = (g + 1) * kGroup;
    constexpr int kVectors = Q <= 2 ? 2 : 1;
    for (uint32_t channel = g * kGroup; channel < end; channel += kVectors * n) {
      ValuesAt<Q, kVectors>(rounded, keep, rows, channel, head_dim, head_pad, o);
    }
  }
}

void Int8RowScoresT(const int16_t* codes, const float* scales, uint32_t count, const Int8Rows& rows, uint32_t head_dim,
                    uint32_t head_pad, float* scores) {
  WithQueries(count, [&](auto q) HWY_ATTR {
    ScoresOf<decltype(q)::value>(codes, scales, rows, head_dim, head_pad, scores);
  });
}

void Int8RowValuesT(const float* weights, const float* keep, uint32_t count, const Int8Rows& rows, uint32_t head_dim,
                    uint32_t head_pad, float* o) {
  WithQueries(count, [&](auto q) HWY_ATTR {
    ValuesOf<decltype(q)::value>(weights, keep, rows, head_dim, head_pad, o);
  });
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(RoundQueriesT);
HWY_EXPORT(Int8RowsToFloatsT);
HWY_EXPORT(Int8RowScoresT);
HWY_EXPORT(Int8RowValuesT);

void RoundQueries(const float* queries, uint32_t count, uint32_t head_pad, Int8Queries* out) {
  out->codes.resize(size_t{count} * head_pad);
  out->scales.resize(count);
  HWY_DYNAMIC_DISPATCH(RoundQueriesT)(queries, count, head_pad, out->codes.data(), out->scales.data());
}
void Int8RowsToFloats(const void* codes, const uint8_t* scales, size_t stride, uint32_t rows, uint32_t head_dim,
                      size_t out_stride, float* out) {
  HWY_DYNAMIC_DISPATCH(Int8RowsToFloatsT)(static_cast<const int8_t*>(codes), scales, stride, rows, head_dim,
                                          out_stride, out);
}
void Int8RowScores(const Int8Queries& queries, uint32_t first, uint32_t count, const Int8Rows& rows, uint32_t head_dim,
                   uint32_t head_pad, float* scores) {
  HWY_DYNAMIC_DISPATCH(Int8RowScoresT)(&queries.codes[size_t{first} * head_pad], &queries.scales[first], count, rows,
                                       head_dim, head_pad, scores);
}
void Int8RowValues(const float* weights, const float* keep, uint32_t count, const Int8Rows& rows, uint32_t head_dim,
                   uint32_t head_pad, float* o) {
  HWY_DYNAMIC_DISPATCH(Int8RowValuesT)(weights, keep, count, rows, head_dim, head_pad, o);
}

}  // namespace hga
#endif  // HWY_ONCE
