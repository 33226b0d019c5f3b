#include "router/index/sketch_score.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/kv/sketch.h"

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
void SumEntries(const uint8_t* tables, size_t table_bytes, const uint8_t* signs, size_t sign_bytes,
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
template <uint32_t kHeads>
HWY_INLINE void SumEntries(const uint8_t* tables, size_t table_bytes, const uint8_t* signs, size_t sign_bytes,
                           uint16_t (*out)[64]) {
  // Vectors of 16, 32 or 64 bytes: half a row of signs, one, or two, whose sums are added in the end.
  const hn::CappedTag<uint8_t, HWY_HAVE_SCALABLE ? 16 : 64> d8;
  const hn::Repartition<uint16_t, decltype(d8)> d16;
  using V = hn::Vec<decltype(d16)>;
  constexpr size_t kLanes = hn::MaxLanes(decltype(d8)());
  static_assert(kLanes == 16 || kLanes == 32 || kLanes == 64, "rows of signs are 32 bytes");
  constexpr size_t kParts = kLanes == 16 ? 2 : 1;
  const auto nibble = hn::Set(d8, 0x0F);
  for (size_t part = 0; part < kParts; ++part) {
    // Bytes at even places are counted with those at odd places above them; the latter are taken off again.
    V low[kHeads], low_odd[kHeads], high[kHeads], high_odd[kHeads];
    for (uint32_t h = 0; h < kHeads; ++h) low[h] = low_odd[h] = high[h] = high_odd[h] = hn::Zero(d16);
    const auto low_half = [&](size_t b) { return hn::And(hn::LoadU(d8, signs + b), nibble); };
    const auto high_half = [&](size_t b) {
      return hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, hn::LoadU(d8, signs + b)))), nibble);
    };
    constexpr size_t kStep = kParts * kLanes;
    size_t b = part * kLanes;
    if (sign_bytes % (2 * kStep) != 0) {
      // An odd number of steps: the first by itself.
      for (uint32_t h = 0; h < kHeads; ++h) {
        const auto table = hn::LoadU(d8, tables + h * table_bytes + b);
        const auto l = hn::BitCast(d16, hn::TableLookupBytes(table, low_half(b)));
        const auto u = hn::BitCast(d16, hn::TableLookupBytes(table, high_half(b)));
        low[h] = l;
        low_odd[h] = hn::ShiftRight<8>(l);
        high[h] = u;
        high_odd[h] = hn::ShiftRight<8>(u);
      }
      b += kStep;
    }
    // Entries have 7 bits: those of two steps are added as bytes.
    for (; b < sign_bytes; b += 2 * kStep) {
      const auto low0 = low_half(b), low1 = low_half(b + kStep), high0 = high_half(b), high1 = high_half(b + kStep);
      for (uint32_t h = 0; h < kHeads; ++h) {
        const auto table0 = hn::LoadU(d8, tables + h * table_bytes + b);
        const auto table1 = hn::LoadU(d8, tables + h * table_bytes + b + kStep);
        const auto l =
            hn::BitCast(d16, hn::Add(hn::TableLookupBytes(table0, low0), hn::TableLookupBytes(table1, low1)));
        const auto u =
            hn::BitCast(d16, hn::Add(hn::TableLookupBytes(table0, high0), hn::TableLookupBytes(table1, high1)));
        low[h] = hn::Add(low[h], l);
        low_odd[h] = hn::Add(low_odd[h], hn::ShiftRight<8>(l));
        high[h] = hn::Add(high[h], u);
        high_odd[h] = hn::Add(high_odd[h], hn::ShiftRight<8>(u));
      }
    }
    for (uint32_t h = 0; h < kHeads; ++h) {
      const V sums[4] = {hn::Sub(low[h], hn::ShiftLeft<8>(low_odd[h])), low_odd[h],
                         hn::Sub(high[h], hn::ShiftLeft<8>(high_odd[h])), high_odd[h]};
      for (size_t i = 0; i < 4; ++i) {
        uint16_t* to = out[h] + i * 16 + part * 8;
        if constexpr (kLanes == 64) {
          const hn::Half<decltype(d16)> half;
          hn::StoreU(hn::Add(hn::LowerHalf(half, sums[i]), hn::UpperHalf(half, sums[i])), half, to);
        } else {
          hn::StoreU(sums[i], d16, to);
        }
      }
    }
  }
}
#endif

template <uint32_t kHeads>
HWY_INLINE void ScoreChunk(const ScoreQueries& q, const SketchTables& tables, uint32_t first_head,
                           const uint8_t* tokens, float token_scale, const float* base, size_t base_stride,
                           float* scores, size_t stride) {
  const size_t table_bytes = size_t{q.head_dim} * 8;
  HWY_ALIGN uint16_t sums[kHeads][64];
  SumEntries<kHeads>(tables.entries.data() + first_head * table_bytes, table_bytes, tokens + kSketchTokens,
                     size_t{q.head_dim} * 8, sums);
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int32_t, decltype(d)> d32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  for (uint32_t t = 0; t < kSketchTokens; t += hn::Lanes(d)) {
    const auto a = hn::Mul(hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, tokens + t))), hn::Set(d, token_scale));
    for (uint32_t h = 0; h < kHeads; ++h) {
      const auto sum = hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d16, sums[h] + t)));
      const auto dot = hn::MulAdd(sum, hn::Set(d, tables.step[first_head + h]), hn::Set(d, tables.offset[first_head + h]));
      hn::StoreU(hn::MulAdd(a, dot, hn::Set(d, base[(first_head + h) * base_stride])), d,
                 scores + (first_head + h) * stride + t);
    }
  }
}

void ScoreTokensSimd(const ScoreQueries& q, const SketchTables& tables, const uint8_t* centres, const uint8_t* tokens,
                     uint32_t count, uint32_t chunk_tokens, const float* base, size_t base_stride, float* scores,
                     size_t stride) {
  for (uint32_t i = 0; i < count; ++i) {
    SketchScales scales;
    std::memcpy(&scales, centres + i * SketchCentreBytes(q.head_dim) + q.head_dim, sizeof(scales));
    const uint8_t* record = tokens + i * SketchTokenBytes(q.head_dim);
    for (uint32_t h = 0; h < q.heads;) {
      float* out = scores + size_t{i} * chunk_tokens;
      switch (q.heads - h) {
        case 1: ScoreChunk<1>(q, tables, h, record, scales.token, base + i, base_stride, out, stride); h += 1; break;
        case 2: ScoreChunk<2>(q, tables, h, record, scales.token, base + i, base_stride, out, stride); h += 2; break;
        case 3: ScoreChunk<3>(q, tables, h, record, scales.token, base + i, base_stride, out, stride); h += 3; break;
        default: ScoreChunk<4>(q, tables, h, record, scales.token, base + i, base_stride, out, stride); h += 4; break;
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
HWY_EXPORT(ScoreTokensSimd);

void MakeSketchTables(const ScoreQueries& q, SketchTables* tables) {
  const uint32_t rows = q.head_dim / 4;
  tables->entries.resize(size_t{q.heads} * rows * 32);
  tables->step.resize(q.heads);
  tables->offset.resize(q.heads);
  tables->rotated.resize(q.head_dim);
  tables->sums.resize(rows);
  for (uint32_t h = 0; h < q.heads; ++h) {
    float* r = tables->rotated.data();
    std::copy_n(q.data + size_t{h} * q.head_dim, q.head_dim, r);
    RotateForSketch(r, q.head_dim);
    float widest = 0, all = 0;
    for (uint32_t j = 0; j < rows; ++j) {
      const float sum = std::fabs(r[4 * j]) + std::fabs(r[4 * j + 1]) + std::fabs(r[4 * j + 2]) + std::fabs(r[4 * j + 3]);
      tables->sums[j] = sum;
      widest = std::max(widest, sum);
      all += sum;
    }
    const bool usable = widest > 0 && std::isfinite(widest) && std::isfinite(all);
    tables->step[h] = usable ? 2 * widest / kLargestEntry : 0.0f;
    tables->offset[h] = usable ? -all : 0.0f;
    HWY_DYNAMIC_DISPATCH(WriteEntriesSimd)
    (r, tables->sums.data(), rows, usable ? kLargestEntry / (2 * widest) : 0.0f,
     tables->entries.data() + size_t{h} * rows * 32);
  }
}

void ScoreTokens(const ScoreQueries& queries, const SketchTables& tables, const uint8_t* centres,
                 const uint8_t* tokens, uint32_t count, uint32_t chunk_tokens, const float* base, size_t base_stride,
                 float* scores, size_t stride) {
  HWY_DYNAMIC_DISPATCH(ScoreTokensSimd)
  (queries, tables, centres, tokens, count, chunk_tokens, base, base_stride, scores, stride);
}

}  // namespace hga
#endif  // HWY_ONCE
