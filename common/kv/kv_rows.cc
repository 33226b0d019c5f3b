// The rows of kv_rows.h, 32 channels at a time.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kv/kv_rows.cc"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/highway.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/kv/kv_rows.h"

#ifndef HGA_COMMON_KV_KV_DTYPE_SCALES
#define HGA_COMMON_KV_KV_DTYPE_SCALES
namespace hga {

inline constexpr int kScaleBias = 127;
inline constexpr int kMaxScale = 100;  // far beyond what K/V holds; keeps every product finite and normal
inline constexpr int kFp8Bias = 7;     // of e4m3: 4 bits of exponent, 3 of mantissa; 0x7f and 0xff are no numbers

inline float MaxOf(KvDtype dtype) { return dtype == KvDtype::kInt8 ? 127 : 448; }

// 2^exponent, for exponents of normal floats.
inline float PowerOfTwo(int exponent) {
  const uint32_t bits = static_cast<uint32_t>(exponent + 127) << 23;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The smallest scale under which the largest magnitude fits.
inline int ScaleOf(KvDtype dtype, float largest) {
  if (!(largest > 0)) return -kMaxScale;
  int exponent;
  std::frexp(largest / MaxOf(dtype), &exponent);
  while (exponent > -kMaxScale && largest <= MaxOf(dtype) * PowerOfTwo(exponent - 1)) --exponent;
  while (exponent < kMaxScale && largest > MaxOf(dtype) * PowerOfTwo(exponent)) ++exponent;
  return std::clamp(exponent, -kMaxScale, kMaxScale);
}

// Calls work(scale's number, first channel, channels) for each 32 channels of a row.
template <typename F>
void ForEachScale(size_t head_dim, F&& work) {
  for (size_t first = 0, scale = 0; first < head_dim; first += kScaledChannels, ++scale)
    work(scale, first, std::min(kScaledChannels, head_dim - first));
}

}  // namespace hga
#endif  // HGA_COMMON_KV_KV_DTYPE_SCALES

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<D>;
using DU = hn::RebindToUnsigned<D>;

// Exact: a value has 7 significant bits (int8) or 4 (e4m3), so what is cut off is zero.
template <typename V>
HWY_INLINE void StoreBf16(V values, bf16* out) {
  const hn::Rebind<uint16_t, D> d16;
  const auto bits = hn::ShiftRight<16>(hn::BitCast(DU(), values));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(DI(), bits)), d16, reinterpret_cast<uint16_t*>(out));
}

HWY_INLINE hn::Vec<D> LoadBf16(const bf16* in) {
  const hn::Rebind<uint16_t, D> d16;
  const auto bits = hn::PromoteTo(DU(), hn::LoadU(d16, reinterpret_cast<const uint16_t*>(in)));
  return hn::BitCast(D(), hn::ShiftLeft<16>(bits));
}

HWY_INLINE hn::Vec<D> Fp8Values(hn::Vec<DU> codes) {
  const DU du;
  const D d;
  const auto magnitude = hn::And(codes, hn::Set(du, 0x7f));
  const auto bits = hn::ShiftLeft<20>(magnitude);
  const auto normal = hn::BitCast(d, hn::Add(bits, hn::Set(du, static_cast<uint32_t>(127 - kFp8Bias) << 23)));
  // Mantissa behind a one of the smallest normal's exponent, less that one.
  const auto least = hn::Set(du, static_cast<uint32_t>(128 - kFp8Bias) << 23);
  const auto subnormal = hn::Sub(hn::BitCast(d, hn::Add(bits, least)), hn::BitCast(d, least));
  const auto is_subnormal = hn::Lt(hn::BitCast(DI(), magnitude), hn::Set(DI(), 8));
  const auto value = hn::IfThenElse(hn::RebindMask(d, is_subnormal), subnormal, normal);
  const auto sign = hn::ShiftLeft<24>(hn::And(codes, hn::Set(du, 0x80)));
  const auto none = hn::Or(hn::Eq(magnitude, hn::Zero(du)), hn::Eq(magnitude, hn::Set(du, 0x7f)));
  return hn::IfThenZeroElse(hn::RebindMask(d, none), hn::Or(value, hn::BitCast(d, sign)));
}

// Nearest, ties to even; magnitudes up to 448. Zero has one code.
HWY_INLINE hn::Vec<DI> Fp8Codes(hn::Vec<D> x) {
  const D d;
  const DU du;
  const auto magnitude = hn::Abs(x);
  const auto subnormal = hn::BitCast(du, hn::NearestInt(hn::Mul(magnitude, hn::Set(d, PowerOfTwo(9)))));
  auto bits = hn::BitCast(du, magnitude);
  const auto odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(du, 1));
  bits = hn::Add(bits, hn::Add(hn::Set(du, (1u << 19) - 1), odd));
  const auto normal = hn::Sub(hn::ShiftRight<20>(bits), hn::Set(du, static_cast<uint32_t>(127 - kFp8Bias) << 3));
  const auto is_subnormal = hn::RebindMask(du, hn::Lt(magnitude, hn::Set(d, PowerOfTwo(1 - kFp8Bias))));
  const auto code = hn::IfThenElse(is_subnormal, subnormal, normal);
  const auto negative = hn::RebindMask(du, hn::Lt(x, hn::Zero(d)));
  const auto signed_code = hn::Or(code, hn::IfThenElseZero(negative, hn::Set(du, 0x80)));
  return hn::BitCast(DI(), hn::IfThenZeroElse(hn::Eq(code, hn::Zero(du)), signed_code));
}

template <KvDtype kDtype>
HWY_INLINE void Unpack32(const uint8_t* codes, int scale, bf16* out) {
  const D d;
  const auto factor = hn::Set(d, PowerOfTwo(scale));
  for (size_t i = 0; i < kScaledChannels; i += hn::Lanes(d)) {
    if (kDtype == KvDtype::kInt8) {
      const hn::Rebind<int8_t, D> d8;
      const auto loaded = hn::LoadU(d8, reinterpret_cast<const int8_t*>(codes) + i);
      StoreBf16(hn::Mul(hn::ConvertTo(d, hn::PromoteTo(DI(), loaded)), factor), out + i);
    } else {
      const hn::Rebind<uint8_t, D> d8;
      StoreBf16(hn::Mul(Fp8Values(hn::PromoteTo(DU(), hn::LoadU(d8, codes + i))), factor), out + i);
    }
  }
}

// Returns the scale.
template <KvDtype kDtype>
HWY_INLINE int Pack32(const bf16* row, uint8_t* codes) {
  const D d;
  float values[kScaledChannels];
  auto largest = hn::Zero(d);
  for (size_t i = 0; i < kScaledChannels; i += hn::Lanes(d)) {
    auto v = LoadBf16(row + i);
    v = hn::IfThenElseZero(hn::Eq(v, v), v);  // what is no number becomes zero
    hn::StoreU(v, d, values + i);
    largest = hn::Max(largest, hn::Abs(v));
  }
  const int scale = ScaleOf(kDtype, hn::GetLane(hn::MaxOfLanes(d, largest)));
  const auto inverse = hn::Set(d, PowerOfTwo(-scale)), most = hn::Set(d, MaxOf(kDtype));
  for (size_t i = 0; i < kScaledChannels; i += hn::Lanes(d)) {
    const auto x = hn::Clamp(hn::Mul(hn::LoadU(d, values + i), inverse), hn::Neg(most), most);
    if (kDtype == KvDtype::kInt8) {
      const hn::Rebind<int8_t, D> d8;
      hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(x)), d8, reinterpret_cast<int8_t*>(codes) + i);
    } else {
      const hn::Rebind<uint8_t, D> d8;
      hn::StoreU(hn::DemoteTo(d8, Fp8Codes(x)), d8, codes + i);
    }
  }
  return scale;
}

template <KvDtype kDtype>
void UnpackRow(const PackedRowView& packed, size_t head_dim, bf16* row) {
  const uint8_t* codes = packed.codes;
  ForEachScale(head_dim, [&](size_t s, size_t first, size_t channels) HWY_ATTR {
    const int scale = std::clamp(packed.scales[s] - kScaleBias, -kMaxScale, kMaxScale);
    if (channels == kScaledChannels) return Unpack32<kDtype>(codes + first, scale, row + first);
    uint8_t some[kScaledChannels] = {};
    bf16 out[kScaledChannels];
    std::memcpy(some, codes + first, channels);
    Unpack32<kDtype>(some, scale, out);
    std::memcpy(row + first, out, channels * sizeof(bf16));
  });
}

// Whether it was rounded before, if that is asked.
template <KvDtype kDtype>
bool PackRow(const bf16* row, size_t head_dim, bool ask, const PackedRow& packed) {
  bool exact = true;
  ForEachScale(head_dim, [&](size_t s, size_t first, size_t channels) HWY_ATTR {
    bf16 in[kScaledChannels] = {}, again[kScaledChannels];
    uint8_t some[kScaledChannels];
    std::memcpy(in, row + first, channels * sizeof(bf16));
    const int scale = Pack32<kDtype>(in, some);
    packed.scales[s] = static_cast<uint8_t>(scale + kScaleBias);
    std::memcpy(packed.codes + first, some, channels);
    if (!ask) return;
    Unpack32<kDtype>(some, scale, again);
    exact = exact && std::memcmp(again, row + first, channels * sizeof(bf16)) == 0;
  });
  return exact;
}

template <KvDtype kDtype>
void RoundRow(bf16* row, size_t head_dim) {
  ForEachScale(head_dim, [&](size_t, size_t first, size_t channels) HWY_ATTR {
    bf16 in[kScaledChannels] = {};
    uint8_t codes[kScaledChannels];
    std::memcpy(in, row + first, channels * sizeof(bf16));
    const int scale = Pack32<kDtype>(in, codes);
    Unpack32<kDtype>(codes, scale, in);
    std::memcpy(row + first, in, channels * sizeof(bf16));
  });
}

void UnpackT(KvDtype dtype, const PackedRowView& packed, size_t head_dim, bf16* row) {
  dtype == KvDtype::kInt8 ? UnpackRow<KvDtype::kInt8>(packed, head_dim, row)
                          : UnpackRow<KvDtype::kFp8E4m3>(packed, head_dim, row);
}
bool PackT(KvDtype dtype, const bf16* row, size_t head_dim, bool ask, const PackedRow& packed) {
  return dtype == KvDtype::kInt8 ? PackRow<KvDtype::kInt8>(row, head_dim, ask, packed)
                                 : PackRow<KvDtype::kFp8E4m3>(row, head_dim, ask, packed);
}
void RoundT(KvDtype dtype, bf16* row, size_t head_dim) {
  dtype == KvDtype::kInt8 ? RoundRow<KvDtype::kInt8>(row, head_dim) : RoundRow<KvDtype::kFp8E4m3>(row, head_dim);
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(UnpackT);
HWY_EXPORT(PackT);
HWY_EXPORT(RoundT);

void RoundKvRow(KvDtype dtype, bf16* row, size_t head_dim) {
  if (dtype != KvDtype::kBf16) HWY_DYNAMIC_DISPATCH(RoundT)(dtype, row, head_dim);
}
bool PackKvRow(KvDtype dtype, const bf16* row, size_t head_dim, const PackedRow& packed) {
  return HWY_DYNAMIC_DISPATCH(PackT)(dtype, row, head_dim, true, packed);
}
void UnpackKvRow(KvDtype dtype, const PackedRowView& packed, size_t head_dim, bf16* row) {
  HWY_DYNAMIC_DISPATCH(UnpackT)(dtype, packed, head_dim, row);
}

KvPlace PlaceInBlock(const KvGeometry& g, const void* block, uint32_t kv_head, uint32_t token) {
  const auto* const bytes = static_cast<const uint8_t*>(block);
  return {bytes + g.k_row(kv_head, token) * g.element_bytes(), bytes + g.v_row(kv_head, token) * g.element_bytes()};
}

KvPlace PlaceAfter(const KvGeometry& g, const KvPlace& place, size_t rows) {
  const size_t bytes = rows * g.row_bytes();
  return {static_cast<const uint8_t*>(place.k) + bytes, static_cast<const uint8_t*>(place.v) + bytes};
}

void ReadKey(const KvGeometry& g, const KvPlace& place, bf16* out) {
  if (g.dtype == KvDtype::kBf16) {
    std::memcpy(out, place.k, g.head_dim * sizeof(bf16));
  } else {
    UnpackKvRow(g.dtype, {ScalesBehind(place.k, g.head_dim), static_cast<const uint8_t*>(place.k)}, g.head_dim, out);
  }
}

void ReadValue(const KvGeometry& g, const KvPlace& place, bf16* out) {
  if (g.dtype == KvDtype::kBf16) {
    std::memcpy(out, place.v, g.head_dim * sizeof(bf16));
  } else {
    const uint8_t* const scales = ScalesBehind(place.k, g.head_dim) + ScalesOfRow(g.head_dim);
    UnpackKvRow(g.dtype, {scales, static_cast<const uint8_t*>(place.v)}, g.head_dim, out);
  }
}

void WriteKv(const KvGeometry& g, const bf16* k, const bf16* v, void* block, uint32_t kv_head, uint32_t token) {
  auto* const bytes = static_cast<uint8_t*>(block);
  uint8_t* const k_row = bytes + g.k_row(kv_head, token) * g.element_bytes();
  uint8_t* const v_row = bytes + g.v_row(kv_head, token) * g.element_bytes();
  if (g.dtype == KvDtype::kBf16) {
    std::memcpy(k_row, k, g.head_dim * sizeof(bf16));
    std::memcpy(v_row, v, g.head_dim * sizeof(bf16));
    return;
  }
  uint8_t* const scales = bytes + g.scales_of(kv_head, token);
  HWY_DYNAMIC_DISPATCH(PackT)(g.dtype, k, g.head_dim, false, {scales, k_row});
  HWY_DYNAMIC_DISPATCH(PackT)(g.dtype, v, g.head_dim, false, {scales + ScalesOfRow(g.head_dim), v_row});
}

}  // namespace hga
#endif  // HWY_ONCE
