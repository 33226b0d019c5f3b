#include "router/index/sketch_score.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "common/kv/sketch.h"
#include "hwy/cache_control.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "router/index/sketch_score.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// entries[j][2][code] = (sum of +-r[4 j + b], + where the code has bit b, + sums[j]) * inverse: never negative.
void WriteEntriesSimd(const float* r, const float* sums, uint32_t rows, float inverse, uint8_t* entries) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int32_t, decltype(d)> d32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  for (uint32_t code = 0; code < 16; code += hn::Lanes(d)) {
    hn::Vec<decltype(d)> sign[4];
    for (uint32_t b = 0; b < 4; ++b) {
      const auto bits = hn::And(hn::ShiftRightSame(hn::Iota(d32, code), b), hn::Set(d32, 1));
      sign[b] = hn::ConvertTo(d, hn::Sub(hn::Add(bits, bits), hn::Set(d32, 1)));
    }
    for (uint32_t j = 0; j < rows; ++j) {
      auto sum = hn::Set(d, sums[j]);
      for (uint32_t b = 0; b < 4; ++b) sum = hn::MulAdd(sign[b], hn::Set(d, r[4 * j + b]), sum);
      // Rounding may leave it a little below zero or above the largest.
      const auto entry = hn::Min(hn::Max(hn::Mul(sum, hn::Set(d, inverse)), hn::Zero(d)), hn::Set(d, kLargestEntry));
      const auto bytes = hn::DemoteTo(d8, hn::NearestInt(entry));
      hn::StoreU(bytes, d8, entries + j * 32 + code);
      hn::StoreU(bytes, d8, entries + j * 32 + 16 + code);
    }
  }
}

// Sums of the table entries of 64 tokens for kHeads tables: out[h][64].
#if HWY_TARGET == HWY_SCALAR
template <uint32_t kHeads>
void SumEntries(const uint8_t* tables, size_t table_bytes, const uint8_t* signs, const uint8_t*, size_t sign_bytes,
                uint16_t (*out)[64]) {
  for (uint32_t h = 0; h < kHeads; ++h) {
    std::fill_n(out[h], 64, uint16_t{0});
    for (size_t b = 0; b < sign_bytes; ++b) {
      const uint8_t* table = tables + h * table_bytes + b / 32 * 32;
      const size_t token = b % 2 * 16 + b % 32 / 2;
      out[h][token] += table[signs[b] & 0x0F];
      out[h][32 + token] += table[signs[b] >> 4];
    }
  }
}
#else
// Vectors of 16, 32 or 64 bytes: half a row of signs, one, or two, whose sums are added in the end.
using D8 = hn::CappedTag<uint8_t, HWY_HAVE_SCALABLE ? 16 : 64>;
using D16 = hn::Repartition<uint16_t, D8>;
constexpr size_t kLanes = hn::MaxLanes(D8());
static_assert(kLanes == 16 || kLanes == 32 || kLanes == 64, "rows of signs are 32 bytes");

// Codes of a vector of signs: the low (kHalf 0) or the high half of each byte.
template <size_t kHalf>
HWY_INLINE hn::Vec<D8> Codes(const uint8_t* signs) {
  const D8 d;
  const auto bytes = hn::LoadU(d, signs), nibble = hn::Set(d, 0x0F);
  if (kHalf == 0) return hn::And(bytes, nibble);
  return hn::And(hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(D16(), bytes))), nibble);
}

// Sums of the entries of bytes at even and at odd places. The former are counted with the latter above them, which are
// taken off again in the end.
struct PlaceSums {
  // Not the compiler's own, which would not be of this target.
  HWY_INLINE PlaceSums() : both(hn::Zero(D16())), odd(hn::Zero(D16())) {}
  hn::Vec<D16> both, odd;
};

HWY_INLINE void AddEntries(hn::Vec<D8> entries, PlaceSums* sums) {
  const auto pairs = hn::BitCast(D16(), entries);
  sums->both = hn::Add(sums->both, pairs);
  sums->odd = hn::Add(sums->odd, hn::ShiftRight<8>(pairs));
}

// Has the sums in registers: gcc 12 reorders the additions of all heads until they are not.
HWY_INLINE void KeepInRegisters(PlaceSums* sums) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  asm("" : "+v"(sums->both.raw), "+v"(sums->odd.raw));
#endif
}

// Of some heads, for the low halves of the signs or the only ones at hand, and for the high ones. No arrays: those gcc
// 12 has in memory where there are many.
template <uint32_t kHeads>
struct HeadSums {
  HWY_INLINE HeadSums() {}
  PlaceSums low, high;
  HeadSums<kHeads - 1> rest;
};
template <>
struct HeadSums<0> {
  HWY_INLINE HeadSums() {}
};

// Of those at even places to to[0, 8 or 16), of the others 16 further on.
HWY_INLINE void StoreSums(const PlaceSums& sums, uint16_t* to) {
  const auto even = hn::Sub(sums.both, hn::ShiftLeft<8>(sums.odd));
  if constexpr (kLanes == 64) {
    const hn::Half<D16> d;
    hn::StoreU(hn::Add(hn::LowerHalf(d, even), hn::UpperHalf(d, even)), d, to);
    hn::StoreU(hn::Add(hn::LowerHalf(d, sums.odd), hn::UpperHalf(d, sums.odd)), d, to + 16);
  } else {
    hn::StoreU(even, D16(), to);
    hn::StoreU(sums.odd, D16(), to + 16);
  }
}

// Codes of kSteps steps: of halves kFirst, and, of both, of the high ones.
template <size_t kFirst, size_t kSteps>
struct StepCodes {
  HWY_INLINE StepCodes(const uint8_t* signs, size_t step) {
#pragma GCC unroll 4
    for (size_t i = 0; i < kSteps; ++i) {
      first[i] = Codes<kFirst>(signs + i * step);
      second[i] = Codes<1>(signs + i * step);
    }
  }
  hn::Vec<D8> first[kSteps], second[kSteps];
};

// Adds the entries of the steps, one or an even number. They have 7 bits: those of two steps are added as bytes.
template <uint32_t kHeads, size_t kFirst, size_t kHalves, size_t kSteps, size_t kStep>
HWY_INLINE void AddSteps(const uint8_t* tables, size_t table_bytes, const StepCodes<kFirst, kSteps>& codes,
                         HeadSums<kHeads>* sums) {
  const D8 d;
  if constexpr (kSteps == 1) {
    const auto table = hn::LoadU(d, tables);
    AddEntries(hn::TableLookupBytes(table, codes.first[0]), &sums->low);
    if (kHalves == 2) AddEntries(hn::TableLookupBytes(table, codes.second[0]), &sums->high);
  } else {
#pragma GCC unroll 2
    for (size_t i = 0; i < kSteps; i += 2) {
      const auto table0 = hn::LoadU(d, tables + i * kStep), table1 = hn::LoadU(d, tables + (i + 1) * kStep);
      const auto both = [&](hn::Vec<D8> code0, hn::Vec<D8> code1) HWY_ATTR __attribute__((always_inline)) {
        return hn::Add(hn::TableLookupBytes(table0, code0), hn::TableLookupBytes(table1, code1));
      };
      AddEntries(both(codes.first[i], codes.first[i + 1]), &sums->low);
      KeepInRegisters(&sums->low);
      if (kHalves == 1) continue;
      AddEntries(both(codes.second[i], codes.second[i + 1]), &sums->high);
      KeepInRegisters(&sums->high);
    }
  }
  if constexpr (kHeads > 1) {
    AddSteps<kHeads - 1, kFirst, kHalves, kSteps, kStep>(tables + table_bytes, table_bytes, codes, &sums->rest);
  }
}

template <uint32_t kHeads, size_t kFirst, size_t kHalves>
HWY_INLINE void StoreHeads(const HeadSums<kHeads>& sums, uint16_t (*out)[64]) {
  StoreSums(sums.low, out[0] + kFirst * 32);
  if (kHalves == 2) StoreSums(sums.high, out[0] + 32);
  if constexpr (kHeads > 1) StoreHeads<kHeads - 1, kFirst, kHalves>(sums.rest, out + 1);
}

// Of the signs' halves [kFirst, kFirst + kHalves), from byte `b` on in steps of kStep. Asks for the lines of `ahead` by
// and by: asked for all at once they would be waited for.
// Not inlined: beside other work its sums would not stay in registers (gcc 12).
template <uint32_t kHeads, size_t kFirst, size_t kHalves, size_t kStep>
HWY_NOINLINE void SumHalves(const uint8_t* tables, size_t table_bytes, const uint8_t* signs, const uint8_t* ahead,
                          size_t sign_bytes, size_t b, uint16_t (*out)[64]) {
  HeadSums<kHeads> sums;
  const auto add = [&](auto steps) HWY_ATTR __attribute__((always_inline)) {
    const StepCodes<kFirst, steps.value> codes(signs + b, kStep);
    AddSteps<kHeads, kFirst, kHalves, steps.value, kStep>(tables + b, table_bytes, codes, &sums);
    b += steps.value * kStep;
  };
  if (sign_bytes % (2 * kStep) != 0) add(std::integral_constant<size_t, 1>());
  if (sign_bytes % (4 * kStep) >= 2 * kStep) add(std::integral_constant<size_t, 2>());
  while (b < sign_bytes) {
    for (size_t line = 0; kFirst == 0 && line < 4 * kStep; line += 64) hwy::Prefetch(ahead + b + line);
    add(std::integral_constant<size_t, 4>());
  }
  StoreHeads<kHeads, kFirst, kHalves>(sums, out);
}

template <uint32_t kHeads>
HWY_INLINE void SumEntries(const uint8_t* tables, size_t table_bytes, const uint8_t* signs, const uint8_t* ahead,
                           size_t sign_bytes, uint16_t (*out)[64]) {
  constexpr size_t kParts = kLanes == 16 ? 2 : 1, kStep = kParts * kLanes;
  for (size_t part = 0; part < kParts; ++part) {
    auto* to = reinterpret_cast<uint16_t(*)[64]>(out[0] + part * 8);
    // With 16 registers the sums of both halves would not stay in them.
    if constexpr (HWY_TARGET > HWY_AVX3) {
      SumHalves<kHeads, 0, 1, kStep>(tables, table_bytes, signs, ahead, sign_bytes, part * kLanes, to);
      SumHalves<kHeads, 1, 1, kStep>(tables, table_bytes, signs, ahead, sign_bytes, part * kLanes, to);
    } else {
      SumHalves<kHeads, 0, 2, kStep>(tables, table_bytes, signs, ahead, sign_bytes, part * kLanes, to);
    }
  }
}
#endif

// Of a chunk's tokens, whose scales are whole numbers: shifted to the top of 16 bits, and squared.
struct TokenScales {
  HWY_ALIGN int16_t shifted[kSketchTokens];
  HWY_ALIGN uint16_t squares[kSketchTokens];
};
HWY_INLINE void ReadTokenScales(const uint8_t* record, TokenScales* scales) {
  const hn::CappedTag<int16_t, 32> d;
  const hn::Rebind<uint16_t, decltype(d)> du;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  for (uint32_t t = 0; t < kSketchTokens; t += hn::Lanes(d)) {
    const auto scale = hn::PromoteTo(du, hn::LoadU(d8, record + t));
    hn::Store(hn::BitCast(d, hn::ShiftLeft<7>(scale)), d, scales->shifted + t);
    hn::Store(hn::Mul(scale, scale), du, scales->squares + t);
  }
}

// What turns a head's sums of a chunk into weights, in 16 bits each.
struct ChunkFactors {
  HWY_ALIGN int16_t step[kHeadsOfCall][kChunksOfCall];
  HWY_ALIGN int16_t spread[kHeadsOfCall][kChunksOfCall];
  HWY_ALIGN int16_t centre[kHeadsOfCall][kChunksOfCall];
};
// Of heads [head, head + heads) and `count` chunks. base, references: of the first of them. scales: of the chunks'
// tokens.
HWY_INLINE void MakeFactors(const SketchTables& tables, uint32_t head, uint32_t heads, const float* scales,
                            uint32_t count, const float* base, size_t base_stride, const float* references,
                            ChunkFactors* factors) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int16_t, decltype(d)> d16;
  const auto most = hn::Set(d, 32767.0f), lowest = hn::Set(d, -32768.0f);
  const auto steps = hn::Set(d, kStepsPerNat), one = hn::Set(d, static_cast<float>(kWeightOfReference));
  HWY_ALIGN float centres[kChunksOfCall] = {};
  for (uint32_t h = 0; h < heads; ++h) {
    std::copy_n(base + h * base_stride, count, centres);
    const auto step = hn::Set(d, tables.step[head + h]), spread = hn::Set(d, tables.spread[head + h]);
    for (uint32_t i = 0; i < count; i += hn::Lanes(d)) {
      const auto scale = hn::Load(d, scales + i);
      const auto apart = hn::Sub(hn::Load(d, centres + i), hn::Set(d, references[h]));
      // In this order: what is no number weighs nothing.
      const auto centre = hn::Max(hn::MulAdd(apart, steps, one), lowest);
      const auto round = [&](auto x) HWY_ATTR { return hn::DemoteTo(d16, hn::NearestInt(hn::Min(x, most))); };
      hn::Store(round(hn::Mul(step, scale)), d16, factors->step[h] + i);
      hn::Store(round(hn::Mul(spread, hn::Mul(scale, scale))), d16, factors->spread[h] + i);
      hn::Store(round(centre), d16, factors->centre[h] + i);
    }
  }
}

// Of chunk i, for kHeads heads from the first on, whose tables begin there; h: the first's place in the factors.
template <uint32_t kHeads>
HWY_INLINE void WeighChunk(const SketchTables& tables, uint32_t head_dim, uint32_t first, const uint8_t* record,
                           const uint8_t* ahead, const TokenScales& scales, const ChunkFactors& factors, uint32_t h,
                           uint32_t i, uint16_t* weights, size_t stride) {
  const size_t table_bytes = size_t{head_dim} * 8;
  HWY_ALIGN uint16_t sums[kHeads][kSketchTokens];
  SumEntries<kHeads>(tables.entries.data() + first * table_bytes, table_bytes, record + kSketchTokens,
                     ahead + kSketchTokens, SketchSignBytes(head_dim), sums);
  const hn::CappedTag<int16_t, 32> d;
  const hn::Rebind<uint16_t, decltype(d)> du;
  const auto most = hn::Set(d, static_cast<int16_t>(kLargestWeight));
  for (uint32_t k = 0; k < kHeads; ++k, weights += stride) {
    const auto step = hn::Set(d, factors.step[h + k][i]), centre = hn::Set(d, factors.centre[h + k][i]);
    const auto spread = hn::Set(du, static_cast<uint16_t>(factors.spread[h + k][i]));
    const auto zero = hn::Set(d, tables.zero[first + k]);
    for (uint32_t t = 0; t < kSketchTokens; t += hn::Lanes(d)) {
      // What goes beyond 16 bits comes off again.
      const auto shifted = hn::ShiftLeftSame(hn::LoadU(du, sums[k] + t), tables.shift[first + k]);
      const auto sum = hn::Sub(hn::BitCast(d, shifted), zero);
      const auto factor = hn::MulFixedPoint15(hn::Load(d, scales.shifted + t), step);
      const auto over = hn::BitCast(d, hn::MulHigh(hn::Load(du, scales.squares + t), spread));
      const auto half = hn::MulFixedPoint15(sum, factor);
      const auto weight = hn::SaturatedAdd(hn::SaturatedAdd(hn::SaturatedAdd(half, half), over), centre);
      hn::StoreU(hn::BitCast(du, hn::Min(hn::Max(weight, hn::Zero(d)), most)), du, weights + t);
    }
  }
}

// Of at most kChunksOfCall chunks, for at most kHeadsOfCall heads.
void WeighTokensSimd(const SketchTables& tables, uint32_t head_dim, uint32_t first, uint32_t some,
                     const uint8_t* centres, const uint8_t* const* records, uint32_t count, uint32_t chunk_tokens,
                     const float* base, size_t base_stride, const float* references, uint16_t* weights, size_t stride) {
  HWY_ALIGN float token_scales[kChunksOfCall] = {};
  for (uint32_t i = 0; i < count; ++i) {
    SketchScales scales;
    std::memcpy(&scales, centres + i * SketchCentreBytes(head_dim) + head_dim, sizeof(scales));
    token_scales[i] = scales.token;
  }
  ChunkFactors factors;
  MakeFactors(tables, first, some, token_scales, count, base, base_stride, references, &factors);
  for (uint32_t i = 0; i < count; ++i, weights += chunk_tokens) {
    const uint8_t* record = records[i];
    hwy::Prefetch(records[i + kRecordsAhead]);
    TokenScales scales;
    ReadTokenScales(record, &scales);
    const auto weigh = [&](auto heads, uint32_t h) HWY_ATTR {
      const uint8_t* ahead = h == 0 ? records[i + kRecordsAhead] : record;
      WeighChunk<heads.value>(tables, head_dim, first + h, record, ahead, scales, factors, h, i,
                              weights + h * stride, stride);
    };
    for (uint32_t h = 0; h < some; h += 4) {
      switch (some - h) {
        case 1: weigh(std::integral_constant<uint32_t, 1>(), h); break;
        case 2: weigh(std::integral_constant<uint32_t, 2>(), h); break;
        case 3: weigh(std::integral_constant<uint32_t, 3>(), h); break;
        default: weigh(std::integral_constant<uint32_t, 4>(), h); break;
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(WriteEntriesSimd);
HWY_EXPORT(WeighTokensSimd);

// One row of four bits may be nearly all that a head looks for: then sums are small, and steps large.
uint32_t SketchSumShift(uint32_t zero, uint32_t head_dim) {
  const uint32_t most = zero + head_dim / 8 + 1;
  uint32_t shift = 0;
  while (most << (shift + 1) <= 32767) ++shift;
  return shift;
}

void MakeSketchTables(const ScoreQueries& q, const SketchDeal* deal, SketchTables* tables) {
  const uint32_t rows = q.head_dim / 4;
  tables->entries.resize(size_t{q.heads} * rows * 32);
  tables->zero.resize(q.heads);
  tables->shift.resize(q.heads);
  tables->step.resize(q.heads);
  tables->spread.resize(q.heads);
  tables->weights.resize(q.head_dim);
  tables->sums.resize(rows);
  for (uint32_t h = 0; h < q.heads; ++h) {
    float* r = tables->weights.data();
    std::copy_n(q.data + size_t{h} * q.head_dim, q.head_dim, r);
    const double spread = WeighForSketch(deal, q.head_dim, r);
    float widest = 0, all = 0;
    for (uint32_t j = 0; j < rows; ++j) {
      const float* four = r + 4 * j;
      const float sum = std::fabs(four[0]) + std::fabs(four[1]) + std::fabs(four[2]) + std::fabs(four[3]);
      tables->sums[j] = sum;
      widest = std::max(widest, sum);
      all += sum;
    }
    const bool usable = widest > 0 && std::isfinite(widest) && std::isfinite(all);
    const float step = usable ? 2 * widest / kLargestEntry : 0.0f;
    // What entries are above the sums that they stand for.
    const float zero = usable ? all / step : 0.0f;
    const uint32_t shift = SketchSumShift(static_cast<uint32_t>(std::lrint(zero)), q.head_dim);
    tables->shift[h] = static_cast<uint8_t>(shift);
    tables->zero[h] = static_cast<int16_t>(std::lrint(zero * static_cast<float>(1u << shift)));
    tables->step[h] = step * kStepsPerNat * static_cast<float>(1u << (22 - shift));
    tables->spread[h] = (usable ? static_cast<float>(spread) : 0.0f) * kStepsPerNat * 65536;
    HWY_DYNAMIC_DISPATCH(WriteEntriesSimd)
    (r, tables->sums.data(), rows, usable ? kLargestEntry / (2 * widest) : 0.0f,
     tables->entries.data() + size_t{h} * rows * 32);
  }
}

void WeighTokens(const SketchTables& tables, uint32_t head_dim, uint32_t first, uint32_t some, const uint8_t* centres,
                 const uint8_t* const* records, uint32_t count, uint32_t chunk_tokens, const float* base,
                 size_t base_stride, const float* references, uint16_t* weights, size_t stride) {
  const auto weigh = HWY_DYNAMIC_DISPATCH(WeighTokensSimd);
  for (uint32_t i = 0; i < count; i += kChunksOfCall) {
    for (uint32_t h = 0; h < some; h += kHeadsOfCall) {
      weigh(tables, head_dim, first + h, std::min(kHeadsOfCall, some - h), centres + i * SketchCentreBytes(head_dim),
            records + i, std::min(kChunksOfCall, count - i), chunk_tokens, base + h * base_stride + i, base_stride,
            references + h, weights + h * stride + size_t{i} * chunk_tokens, stride);
    }
  }
}

}  // namespace hga
#endif  // HWY_ONCE
