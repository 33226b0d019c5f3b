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

// Entries have so few bits that those of this many rows are added as bytes.
constexpr size_t kRowsPerSum = 8;
static_assert(kRowsPerSum * static_cast<size_t>(kLargestEntry) <= 255, "sums are bytes");

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
// Adds bytes that stand for two tokens in turn to the sums of both.
template <class D8>
HWY_INLINE void AddBytes(D8 d8, hn::Vec<D8> bytes, uint16_t* even, uint16_t* odd) {
  const hn::Repartition<uint16_t, D8> d16;
  const auto pairs = hn::BitCast(d16, bytes);
  auto to_even = hn::And(pairs, hn::Set(d16, 0x00FF)), to_odd = hn::ShiftRight<8>(pairs);
  if constexpr (hn::MaxLanes(D8()) == 64) {  // two rows
    const hn::Half<decltype(d16)> half;
    const auto add = [&](auto sums, uint16_t* to) {
      const auto both = hn::Add(hn::LowerHalf(half, sums), hn::UpperHalf(half, sums));
      hn::Store(hn::Add(hn::Load(half, to), both), half, to);
    };
    add(to_even, even);
    add(to_odd, odd);
  } else {
    hn::Store(hn::Add(hn::Load(d16, even), to_even), d16, even);
    hn::Store(hn::Add(hn::Load(d16, odd), to_odd), d16, odd);
  }
}

template <uint32_t kHeads>
HWY_INLINE void SumEntries(const uint8_t* tables, size_t table_bytes, const uint8_t* signs, size_t sign_bytes,
                           uint16_t (*out)[64]) {
  // Vectors of 16, 32 or 64 bytes: half a row of signs, one, or two, whose sums are added in the end.
  const hn::CappedTag<uint8_t, HWY_HAVE_SCALABLE ? 16 : 64> d8;
  const hn::Repartition<uint16_t, decltype(d8)> d16;
  constexpr size_t kLanes = hn::MaxLanes(decltype(d8)());
  static_assert(kLanes == 16 || kLanes == 32 || kLanes == 64, "rows of signs are 32 bytes");
  constexpr size_t kParts = kLanes == 16 ? 2 : 1;
  constexpr size_t kStep = kParts * kLanes;
  const auto nibble = hn::Set(d8, 0x0F);
  for (uint32_t h = 0; h < kHeads; ++h) {
    for (size_t i = 0; i < 64; i += 8) hn::Store(hn::Zero(hn::Full128<uint16_t>()), hn::Full128<uint16_t>(), out[h] + i);
  }
  for (size_t part = 0; part < kParts; ++part) {
    for (size_t b = part * kLanes; b < sign_bytes;) {
      const size_t end = std::min(sign_bytes, b + kRowsPerSum * kStep);
      hn::Vec<decltype(d8)> low[kHeads], high[kHeads];
      for (uint32_t h = 0; h < kHeads; ++h) low[h] = high[h] = hn::Zero(d8);
      for (; b < end; b += kStep) {
        const auto codes = hn::LoadU(d8, signs + b);
        const auto low_codes = hn::And(codes, nibble);
        const auto high_codes = hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, codes))), nibble);
        for (uint32_t h = 0; h < kHeads; ++h) {
          const auto table = hn::LoadU(d8, tables + h * table_bytes + b);
          low[h] = hn::Add(low[h], hn::TableLookupBytes(table, low_codes));
          high[h] = hn::Add(high[h], hn::TableLookupBytes(table, high_codes));
        }
      }
      for (uint32_t h = 0; h < kHeads; ++h) {
        uint16_t* to = out[h] + part * 8;
        AddBytes(d8, low[h], to, to + 16);
        AddBytes(d8, high[h], to + 32, to + 48);
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
