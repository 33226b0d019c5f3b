#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "gpu_worker/backend/cpu/kernels.cc"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

#include "gpu_worker/backend/cpu/kernels.h"

#include <cmath>
#include <cstring>
#include <limits>

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F = hn::ScalableTag<float>;
using VF = hn::Vec<F>;

// Exact for zero, normal and subnormal values: all that a scale can be.
HWY_INLINE float Half(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, sizeof(half));
  const uint32_t bits = uint32_t{half & 0x7fffu} << 13;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  f *= 5.192296858534828e33f;  // 2^112: from half's exponent bias to float's
  return half & 0x8000 ? -f : f;
}


HWY_INLINE void Nibbles(const uint8_t* packed, float scale, float offset, float* out) {
  const F df;
  const hn::Rebind<uint8_t, F> du8;
  const hn::Rebind<int32_t, F> di32;
  const VF vscale = hn::Set(df, scale), voffset = hn::Set(df, offset);
  for (size_t i = 0; i < 16; i += hn::Lanes(df)) {
    const auto bytes = hn::PromoteTo(di32, hn::LoadU(du8, packed + i));
    const auto low = hn::And(bytes, hn::Set(di32, 15)), high = hn::ShiftRight<4>(bytes);
    hn::StoreU(hn::Add(hn::Mul(hn::ConvertTo(df, low), vscale), voffset), df, out + i);
    hn::StoreU(hn::Add(hn::Mul(hn::ConvertTo(df, high), vscale), voffset), df, out + i + 16);
  }
}

void DequantizeRowT(TensorType type, const uint8_t* row, uint32_t cols, float* out) {
  const F df;
  switch (type) {
    case TensorType::kQ4_0:
      for (uint32_t i = 0; i < cols; i += 32, row += 18) {
        const float scale = Half(row);
        Nibbles(row + 2, scale, -8 * scale, out + i);
      }
      return;
    case TensorType::kQ4_1:
      for (uint32_t i = 0; i < cols; i += 32, row += 20) Nibbles(row + 4, Half(row), Half(row + 2), out + i);
      return;
    case TensorType::kQ8_0: {
      const hn::Rebind<int8_t, F> di8;
      const hn::Rebind<int32_t, F> di32;
      for (uint32_t i = 0; i < cols; i += 32, row += 34) {
        const VF scale = hn::Set(df, Half(row));
        for (size_t j = 0; j < 32; j += hn::Lanes(df)) {
          const auto bytes = hn::LoadU(di8, reinterpret_cast<const int8_t*>(row + 2 + j));
          hn::StoreU(hn::Mul(hn::ConvertTo(df, hn::PromoteTo(di32, bytes)), scale), df, out + i + j);
        }
      }
      return;
    }
    default:
      DequantizeRow(type, row, cols, out);
  }
}

void DotRowsT(const float* row, uint32_t cols, const float* x, size_t x_stride, uint32_t rows, float* dots) {
  const F df;
  const size_t n = hn::Lanes(df);
  for (uint32_t r = 0; r < rows; ++r) {
    const float* y = x + r * x_stride;
    VF a = hn::Zero(df), b = hn::Zero(df), c = hn::Zero(df), d = hn::Zero(df);
    uint32_t i = 0;
    for (; i + 4 * n <= cols; i += 4 * n) {
      a = hn::MulAdd(hn::LoadU(df, row + i), hn::LoadU(df, y + i), a);
      b = hn::MulAdd(hn::LoadU(df, row + i + n), hn::LoadU(df, y + i + n), b);
      c = hn::MulAdd(hn::LoadU(df, row + i + 2 * n), hn::LoadU(df, y + i + 2 * n), c);
      d = hn::MulAdd(hn::LoadU(df, row + i + 3 * n), hn::LoadU(df, y + i + 3 * n), d);
    }
    for (; i + n <= cols; i += n) a = hn::MulAdd(hn::LoadU(df, row + i), hn::LoadU(df, y + i), a);
    float sum = hn::GetLane(hn::SumOfLanes(df, hn::Add(hn::Add(a, b), hn::Add(c, d))));
    for (; i < cols; ++i) sum += row[i] * y[i];
    dots[r] = sum;
  }
}

void FloatsToBf16T(const float* in, size_t count, bf16* out) {
  const hn::ScalableTag<uint32_t> du32;
  const hn::Rebind<uint16_t, decltype(du32)> du16;
  const size_t n = hn::Lanes(du32);
  size_t i = 0;
  // Round to nearest even; activations are finite, so NaN needs no care here.
  for (; i + n <= count; i += n) {
    const auto bits = hn::LoadU(du32, reinterpret_cast<const uint32_t*>(in + i));
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du32, 1));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du32, 0x7fff))));
    hn::StoreU(hn::DemoteTo(du16, hn::BitCast(hn::ScalableTag<int32_t>(), rounded)), du16,
               reinterpret_cast<uint16_t*>(out + i));
  }
  for (; i < count; ++i) out[i] = ToBf16(in[i]);
}

void Bf16ToFloatsT(const bf16* in, size_t count, float* out) {
  const hn::ScalableTag<uint32_t> du32;
  const hn::Rebind<uint16_t, decltype(du32)> du16;
  const size_t n = hn::Lanes(du32);
  size_t i = 0;
  for (; i + n <= count; i += n) {
    const auto wide = hn::ShiftLeft<16>(hn::PromoteTo(du32, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(in + i))));
    hn::StoreU(wide, du32, reinterpret_cast<uint32_t*>(out + i));
  }
  for (; i < count; ++i) out[i] = ToFloat(in[i]);
}

void SiluMultiplyT(const float* gate, const float* up, size_t count, float* out) {
  const F df;
  const size_t n = hn::Lanes(df);
  const VF one = hn::Set(df, 1.0f);
  size_t i = 0;
  for (; i + n <= count; i += n) {
    const VF g = hn::LoadU(df, gate + i);
    const VF silu = hn::Div(g, hn::Add(one, hn::Exp(df, hn::Neg(g))));
    hn::StoreU(hn::Mul(silu, hn::LoadU(df, up + i)), df, out + i);
  }
  for (; i < count; ++i) out[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

// Q queries against 4 vectors of keys at a time: 4 Q accumulators, no horizontal sums.
template <int Q>
HWY_INLINE void Scores(const float* queries, const float* keys, uint32_t head_pad, float* scores) {
  const F df;
  const size_t n = hn::Lanes(df);
  for (size_t key = 0; key < kTileKeys; key += 4 * n) {
    VF acc[Q][4];
    for (int q = 0; q < Q; ++q) {
      for (int v = 0; v < 4; ++v) acc[q][v] = hn::Zero(df);
    }
    for (uint32_t d = 0; d < head_pad; ++d) {
      const float* row = keys + size_t{d} * kTileKeys + key;
      const VF k0 = hn::LoadU(df, row), k1 = hn::LoadU(df, row + n), k2 = hn::LoadU(df, row + 2 * n),
               k3 = hn::LoadU(df, row + 3 * n);
      for (int q = 0; q < Q; ++q) {
        const VF x = hn::Set(df, queries[size_t{static_cast<uint32_t>(q)} * head_pad + d]);
        acc[q][0] = hn::MulAdd(x, k0, acc[q][0]);
        acc[q][1] = hn::MulAdd(x, k1, acc[q][1]);
        acc[q][2] = hn::MulAdd(x, k2, acc[q][2]);
        acc[q][3] = hn::MulAdd(x, k3, acc[q][3]);
      }
    }
    for (int q = 0; q < Q; ++q) {
      for (int v = 0; v < 4; ++v) hn::StoreU(acc[q][v], df, scores + q * kTileKeys + key + v * n);
    }
  }
}

void TileScoresT(const float* queries, uint32_t count, const float* keys, uint32_t head_pad, float* scores) {
  switch (count) {
    case 1: return Scores<1>(queries, keys, head_pad, scores);
    case 2: return Scores<2>(queries, keys, head_pad, scores);
    case 3: return Scores<3>(queries, keys, head_pad, scores);
    default: return Scores<4>(queries, keys, head_pad, scores);
  }
}

float TileSoftmaxT(float* scores, uint32_t keys, float* m, float* l) {
  const F df;
  const size_t n = hn::Lanes(df);
  // Lanes behind the last key weigh nothing.
  for (uint32_t i = keys; i < kTileKeys; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  VF largest = hn::LoadU(df, scores);
  for (size_t i = n; i < kTileKeys; i += n) largest = hn::Max(largest, hn::LoadU(df, scores + i));
  const float tile_max = hn::GetLane(hn::MaxOfLanes(df, largest));
  if (tile_max == -std::numeric_limits<float>::infinity()) {  // every key is masked
    std::memset(scores, 0, kTileKeys * sizeof(float));
    return 1.0f;
  }
  const float new_m = tile_max > *m ? tile_max : *m;
  const float keep = *m == -std::numeric_limits<float>::infinity() ? 0.0f : std::exp(*m - new_m);
  const VF vm = hn::Set(df, new_m), lowest = hn::Set(df, -100.0f);
  VF sum = hn::Zero(df);
  for (size_t i = 0; i < kTileKeys; i += n) {
    const VF x = hn::Sub(hn::LoadU(df, scores + i), vm);
    // e^-100 is below half an ulp of any sum that holds e^0; minus infinity becomes an exact zero.
    const VF weight = hn::IfThenElseZero(hn::Gt(x, lowest), hn::Exp(df, hn::Max(x, lowest)));
    hn::StoreU(weight, df, scores + i);
    sum = hn::Add(sum, weight);
  }
  *l = *l * keep + hn::GetLane(hn::SumOfLanes(df, sum));
  *m = new_m;
  return keep;
}

template <int Q>
HWY_INLINE void Values(const float* weights, const float* keep, const float* values, uint32_t keys, uint32_t head_pad,
                       float* o) {
  const F df;
  const size_t n = hn::Lanes(df);
  for (uint32_t d = 0; d < head_pad; d += 4 * n) {
    VF acc[Q][4];
    for (int q = 0; q < Q; ++q) {
      const VF k = hn::Set(df, keep[q]);
      for (int v = 0; v < 4; ++v) acc[q][v] = hn::Mul(k, hn::LoadU(df, o + size_t(q) * head_pad + d + v * n));
    }
    for (uint32_t j = 0; j < keys; ++j) {
      const float* row = values + size_t{j} * head_pad + d;
      const VF v0 = hn::LoadU(df, row), v1 = hn::LoadU(df, row + n), v2 = hn::LoadU(df, row + 2 * n),
               v3 = hn::LoadU(df, row + 3 * n);
      for (int q = 0; q < Q; ++q) {
        const VF p = hn::Set(df, weights[q * kTileKeys + j]);
        acc[q][0] = hn::MulAdd(p, v0, acc[q][0]);
        acc[q][1] = hn::MulAdd(p, v1, acc[q][1]);
        acc[q][2] = hn::MulAdd(p, v2, acc[q][2]);
        acc[q][3] = hn::MulAdd(p, v3, acc[q][3]);
      }
    }
    for (int q = 0; q < Q; ++q) {
      for (int v = 0; v < 4; ++v) hn::StoreU(acc[q][v], df, o + size_t(q) * head_pad + d + v * n);
    }
  }
}

void TileValuesT(const float* weights, const float* keep, uint32_t count, const float* values, uint32_t keys,
                 uint32_t head_pad, float* o) {
  switch (count) {
    case 1: return Values<1>(weights, keep, values, keys, head_pad, o);
    case 2: return Values<2>(weights, keep, values, keys, head_pad, o);
    case 3: return Values<3>(weights, keep, values, keys, head_pad, o);
    default: return Values<4>(weights, keep, values, keys, head_pad, o);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(DequantizeRowT);
HWY_EXPORT(DotRowsT);
HWY_EXPORT(FloatsToBf16T);
HWY_EXPORT(Bf16ToFloatsT);
HWY_EXPORT(SiluMultiplyT);
HWY_EXPORT(TileScoresT);
HWY_EXPORT(TileSoftmaxT);
HWY_EXPORT(TileValuesT);

void FastDequantizeRow(TensorType type, const uint8_t* row, uint32_t cols, float* out) {
  HWY_DYNAMIC_DISPATCH(DequantizeRowT)(type, row, cols, out);
}
void DotRows(const float* row, uint32_t cols, const float* x, size_t x_stride, uint32_t rows, float* dots) {
  HWY_DYNAMIC_DISPATCH(DotRowsT)(row, cols, x, x_stride, rows, dots);
}
void FloatsToBf16(const float* in, size_t count, bf16* out) { HWY_DYNAMIC_DISPATCH(FloatsToBf16T)(in, count, out); }
void Bf16ToFloats(const bf16* in, size_t count, float* out) { HWY_DYNAMIC_DISPATCH(Bf16ToFloatsT)(in, count, out); }
void SiluMultiply(const float* gate, const float* up, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(SiluMultiplyT)(gate, up, count, out);
}
void TileScores(const float* queries, uint32_t count, const float* keys_transposed, uint32_t head_pad, float* scores) {
  HWY_DYNAMIC_DISPATCH(TileScoresT)(queries, count, keys_transposed, head_pad, scores);
}
float TileSoftmax(float* scores, uint32_t keys, float* m, float* l) {
  return HWY_DYNAMIC_DISPATCH(TileSoftmaxT)(scores, keys, m, l);
}
void TileValues(const float* weights, const float* keep, uint32_t count, const float* values, uint32_t keys,
                uint32_t head_pad, float* o) {
  HWY_DYNAMIC_DISPATCH(TileValuesT)(weights, keep, count, values, keys, head_pad, o);
}

}  // namespace hga
#endif  // HWY_ONCE
