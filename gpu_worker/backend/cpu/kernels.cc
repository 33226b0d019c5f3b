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

#include "gpu_worker/backend/cpu/weight_blocks-inl.h"
#include "gpu_worker/model/tensor_row.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F = hn::ScalableTag<float>;
using VF = hn::Vec<F>;

#if HWY_TARGET == HWY_SCALAR

void DequantizeRowT(TensorType type, const uint8_t* row, uint32_t cols, float* out) {
  DequantizeRow(type, row, cols, out);
}

#else

template <class Type>
HWY_INLINE void DequantizeBlocks(const uint8_t* row, uint32_t cols, float* out) {
  const hn::CappedTag<float, 8> df;
  const hn::Rebind<int32_t, decltype(df)> d32;
  const hn::Rebind<int16_t, decltype(df)> d16;
  for (uint32_t first = 0; first < cols; first += Type::kElements, row += Type::kBytes) {
    BlockScales<Type::kElements / 32> scales;
    Type::Scales(row, &scales);
    for (uint32_t j = 0; j < Type::kElements / 32; ++j, out += 32) {
      V16 vectors[kBlockVectors];
      Type::Quants(row, scales, j / Type::kStep * Type::kStep, j % Type::kStep, vectors);
      alignas(64) int16_t q[32];
      for (size_t v = 0; v < kBlockVectors; ++v) hn::Store(vectors[v], I16(), q + Start(v));
      const auto scale = hn::Set(df, scales.scale[j]);
      for (size_t e = 0; e < 32; e += hn::Lanes(df)) {
        const auto value = hn::ConvertTo(df, hn::PromoteTo(d32, hn::LoadU(d16, q + e)));
        if (Type::kHasOffset) {
          hn::StoreU(hn::MulAdd(value, scale, hn::Set(df, scales.offset[j])), df, out + e);
        } else {
          hn::StoreU(hn::Mul(value, scale), df, out + e);
        }
      }
    }
  }
}

void DequantizeRowT(TensorType type, const uint8_t* row, uint32_t cols, float* out) {
  const bool blocks = WithBlocks(type, [&](auto t) { DequantizeBlocks<decltype(t)>(row, cols, out); });
  if (!blocks) DequantizeRow(type, row, cols, out);
}

#endif  // HWY_TARGET == HWY_SCALAR

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
    const auto wide =
        hn::ShiftLeft<16>(hn::PromoteTo(du32, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(in + i))));
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

float TileSoftmaxT(float* scores, uint32_t keys, float* m, float* l) {
  const F df;
  const size_t n = hn::Lanes(df);
  // Lanes behind the last key weigh nothing.
  const size_t end = (keys + n - 1) / n * n;
  for (size_t i = keys; i < end; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  VF largest = hn::LoadU(df, scores);
  for (size_t i = n; i < end; i += n) largest = hn::Max(largest, hn::LoadU(df, scores + i));
  const float tile_max = hn::GetLane(hn::MaxOfLanes(df, largest));
  if (tile_max == -std::numeric_limits<float>::infinity()) {  // every key is masked
    std::memset(scores, 0, kTileKeys * sizeof(float));
    return 1.0f;
  }
  const float new_m = tile_max > *m ? tile_max : *m;
  const float keep = *m == -std::numeric_limits<float>::infinity() ? 0.0f : std::exp(*m - new_m);
  const VF vm = hn::Set(df, new_m), lowest = hn::Set(df, -100.0f);
  VF sum = hn::Zero(df);
  for (size_t i = 0; i < end; i += n) {
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
HWY_EXPORT(TileSoftmaxT);

void FastDequantizeRow(TensorType type, const uint8_t* row, uint32_t cols, float* out) {
  HWY_DYNAMIC_DISPATCH(DequantizeRowT)(type, row, cols, out);
}
void FastDequantizeTensorRow(const TensorView& tensor, uint32_t row, float* out) {
  if (tensor.tile_scales != nullptr) return DequantizeTensorRow(tensor, row, out);
  FastDequantizeRow(tensor.type, tensor.row(row), tensor.cols, out);
}
void DotRows(const float* row, uint32_t cols, const float* x, size_t x_stride, uint32_t rows, float* dots) {
  HWY_DYNAMIC_DISPATCH(DotRowsT)(row, cols, x, x_stride, rows, dots);
}
void FloatsToBf16(const float* in, size_t count, bf16* out) { HWY_DYNAMIC_DISPATCH(FloatsToBf16T)(in, count, out); }
void Bf16ToFloats(const bf16* in, size_t count, float* out) { HWY_DYNAMIC_DISPATCH(Bf16ToFloatsT)(in, count, out); }
void SiluMultiply(const float* gate, const float* up, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(SiluMultiplyT)(gate, up, count, out);
}
float TileSoftmax(float* scores, uint32_t keys, float* m, float* l) {
  return HWY_DYNAMIC_DISPATCH(TileSoftmaxT)(scores, keys, m, l);
}

}  // namespace hga
#endif  // HWY_ONCE
