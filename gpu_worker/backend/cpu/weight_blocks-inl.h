// Blocks of 32 quantised weights as 16-bit integers in vector registers: w[i] = q[i] * scale + offset. For the targets
// of integer_gemm.cc, integer_gemv.cc and kernels.cc. The formats are described in model/quant.cc.
#if defined(HGA_WEIGHT_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HGA_WEIGHT_BLOCKS_INL_H_
#undef HGA_WEIGHT_BLOCKS_INL_H_
#else
#define HGA_WEIGHT_BLOCKS_INL_H_
#endif

#include <cstring>

#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR
HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes: half a block, so that no vector has weights of two scales of Q6_K.
using I16 = hn::CappedTag<int16_t, 16>;
using V16 = hn::Vec<I16>;
using U8 = hn::Rebind<uint8_t, I16>;
using I8 = hn::Rebind<int8_t, I16>;
constexpr size_t kBlockVectors = 32 / hn::MaxLanes(I16());

HWY_INLINE float Half(const uint8_t* p) {
  const hn::CappedTag<float, 4> d4;
  const hn::Rebind<hwy::float16_t, decltype(d4)> d16;  // eight bytes, which every block has behind any of its halves
  return hn::GetLane(hn::PromoteTo(d4, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p))));
}

// Bytes of a half of the block as 16-bit lanes. v: which vector of the block's.
HWY_INLINE V16 Bytes(const uint8_t* p) { return hn::PromoteTo(I16(), hn::LoadU(U8(), p)); }

// Elements of the block at which vector v begins, and in its half.
HWY_INLINE size_t Start(size_t v) { return v * hn::Lanes(I16()); }
HWY_INLINE size_t InHalf(size_t v) { return Start(v) % 16; }

// 32 nibbles in 16 bytes: the low ones come first.
HWY_INLINE V16 Nibbles16(const uint8_t* packed, size_t v) {
  const V16 bytes = Bytes(packed + InHalf(v));
  return Start(v) < 16 ? hn::And(bytes, hn::Set(I16(), 15)) : hn::ShiftRight<4>(bytes);
}

// Which lanes of a vector have their bit in the word.
HWY_INLINE V16 LanesOf(uint16_t word, size_t first_bit, int16_t value) {
  alignas(32) static constexpr uint16_t kBits[16] = {
      1, 2, 4, 8, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  const hn::RebindToUnsigned<I16> du;
  const auto bits = hn::LoadU(du, kBits + first_bit);
  const auto set = hn::Eq(hn::And(hn::Set(du, word), bits), bits);
  return hn::And(hn::BitCast(I16(), hn::VecFromMask(du, set)), hn::Set(I16(), value));
}

// 32 fifth bits, as 0 or 16.
HWY_INLINE V16 FifthBits(const uint8_t* bits, size_t v) {
  uint16_t halves[2];
  std::memcpy(halves, bits, sizeof(halves));
  return LanesOf(halves[Start(v) / 16], InHalf(v), 16);
}

// What is decoded once for a block of the format, which has N times 32 weights: w = q * scale + offset.
template <uint32_t N>
struct BlockScales {
  alignas(32) float scale[N];
  alignas(32) float offset[N];   // of types that have one
  alignas(32) int16_t of_16[2 * N];  // Q6_K: the scales of 16 weights, which its q have in them
};

// Each type: elements and bytes of the format's block, how many 32 weights are decoded together, whether there are
// offsets; the block's scales, and q of its (j + i)-th 32 weights: j is a multiple of kStep, i is below it.
struct Q8_0 {
  static constexpr uint32_t kElements = 32, kBytes = 34, kStep = 1;
  static constexpr bool kHasOffset = false;
  static HWY_INLINE void Scales(const uint8_t* block, BlockScales<1>* out) { out->scale[0] = Half(block); }
  static HWY_INLINE void Quants(const uint8_t* block, const BlockScales<1>&, uint32_t, uint32_t, V16* q) {
    for (size_t v = 0; v < kBlockVectors; ++v) {
      q[v] = hn::PromoteTo(I16(), hn::LoadU(I8(), reinterpret_cast<const int8_t*>(block + 2 + Start(v))));
    }
  }
};

struct Q4_0 {
  static constexpr uint32_t kElements = 32, kBytes = 18, kStep = 1;
  static constexpr bool kHasOffset = false;
  static HWY_INLINE void Scales(const uint8_t* block, BlockScales<1>* out) { out->scale[0] = Half(block); }
  static HWY_INLINE void Quants(const uint8_t* block, const BlockScales<1>&, uint32_t, uint32_t, V16* q) {
    for (size_t v = 0; v < kBlockVectors; ++v) q[v] = hn::Sub(Nibbles16(block + 2, v), hn::Set(I16(), 8));
  }
};

struct Q4_1 {
  static constexpr uint32_t kElements = 32, kBytes = 20, kStep = 1;
  static constexpr bool kHasOffset = true;
  static HWY_INLINE void Scales(const uint8_t* block, BlockScales<1>* out) {
    out->scale[0] = Half(block);
    out->offset[0] = Half(block + 2);
  }
  static HWY_INLINE void Quants(const uint8_t* block, const BlockScales<1>&, uint32_t, uint32_t, V16* q) {
    for (size_t v = 0; v < kBlockVectors; ++v) q[v] = Nibbles16(block + 4, v);
  }
};

struct Q5_0 {
  static constexpr uint32_t kElements = 32, kBytes = 22, kStep = 1;
  static constexpr bool kHasOffset = false;
  static HWY_INLINE void Scales(const uint8_t* block, BlockScales<1>* out) { out->scale[0] = Half(block); }
  static HWY_INLINE void Quants(const uint8_t* block, const BlockScales<1>&, uint32_t, uint32_t, V16* q) {
    for (size_t v = 0; v < kBlockVectors; ++v) {
      q[v] = hn::Sub(hn::Or(Nibbles16(block + 6, v), FifthBits(block + 2, v)), hn::Set(I16(), 16));
    }
  }
};

struct Q5_1 {
  static constexpr uint32_t kElements = 32, kBytes = 24, kStep = 1;
  static constexpr bool kHasOffset = true;
  static HWY_INLINE void Scales(const uint8_t* block, BlockScales<1>* out) {
    out->scale[0] = Half(block);
    out->offset[0] = Half(block + 2);
  }
  static HWY_INLINE void Quants(const uint8_t* block, const BlockScales<1>&, uint32_t, uint32_t, V16* q) {
    for (size_t v = 0; v < kBlockVectors; ++v) q[v] = hn::Or(Nibbles16(block + 8, v), FifthBits(block + 4, v));
  }
};

// Eight bytes times a factor.
HWY_INLINE void ScaledBytes(const uint8_t* bytes, float factor, float* out) {
  const hn::CappedTag<float, 8> df;
  const hn::Rebind<int32_t, decltype(df)> d32;
  const hn::Rebind<uint8_t, decltype(df)> d8;
  for (size_t i = 0; i < 8; i += hn::Lanes(df)) {
    const auto floats = hn::ConvertTo(df, hn::PromoteTo(d32, hn::LoadU(d8, bytes + i)));
    hn::Store(hn::Mul(floats, hn::Set(df, factor)), df, out + i);
  }
}

// Q4_K's and Q5_K's: eight scales and eight negative offsets of 6 bits in 12 bytes, behind two halves. The first four
// of each are the low bits of words 1 and 2, the others nibbles of word 3 with the high bits of words 1 and 2 on top.
HWY_INLINE void SixBitScales(const uint8_t* block, BlockScales<8>* out) {
  const hn::Full128<uint8_t> d8;
  const hn::Full128<uint32_t> d32;
  alignas(16) static constexpr uint8_t kLow[16] = {4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15};
  alignas(16) static constexpr uint8_t kHigh[16] = {4, 5, 6, 7, 4, 5, 6, 7, 8, 9, 10, 11, 8, 9, 10, 11};
  alignas(16) static constexpr uint32_t kShift[4] = {0, 0, 0, 4};
  alignas(16) static constexpr uint32_t kLowMask[4] = {0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f};
  alignas(16) static constexpr uint32_t kHighMask[4] = {0, 0x30303030, 0, 0x30303030};
  const auto all = hn::LoadU(d8, block);
  const auto low = hn::BitCast(d32, hn::TableLookupBytes(all, hn::Load(d8, kLow)));
  const auto high = hn::BitCast(d32, hn::TableLookupBytes(all, hn::Load(d8, kHigh)));
  const auto six = hn::Or(hn::And(hn::Shr(low, hn::Load(d32, kShift)), hn::Load(d32, kLowMask)),
                          hn::And(hn::ShiftRight<2>(high), hn::Load(d32, kHighMask)));
  alignas(16) uint8_t bytes[16];
  hn::Store(hn::BitCast(d8, six), d8, bytes);
  ScaledBytes(bytes, Half(block), out->scale);
  ScaledBytes(bytes + 8, -Half(block + 2), out->offset);
}

// 32 nibbles in 32 bytes, the low or the high ones.
HWY_INLINE V16 NibblesOf(const uint8_t* bytes, uint32_t high, size_t v) {
  const V16 both = Bytes(bytes + Start(v));
  return high != 0 ? hn::ShiftRight<4>(both) : hn::And(both, hn::Set(I16(), 15));
}

struct Q4_K {
  static constexpr uint32_t kElements = 256, kBytes = 144, kStep = 2;
  static constexpr bool kHasOffset = true;
  static HWY_INLINE void Scales(const uint8_t* block, BlockScales<8>* out) { SixBitScales(block, out); }
  static HWY_INLINE void Quants(const uint8_t* block, const BlockScales<8>&, uint32_t j, uint32_t i, V16* q) {
    for (size_t v = 0; v < kBlockVectors; ++v) q[v] = NibblesOf(block + 16 + j * 16, i, v);
  }
};

struct Q5_K {
  static constexpr uint32_t kElements = 256, kBytes = 176, kStep = 2;
  static constexpr bool kHasOffset = true;
  static HWY_INLINE void Scales(const uint8_t* block, BlockScales<8>* out) { SixBitScales(block, out); }
  static HWY_INLINE void Quants(const uint8_t* block, const BlockScales<8>&, uint32_t j, uint32_t i, V16* q) {
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const V16 fifth = hn::And(hn::ShiftRightSame(Bytes(block + 16 + Start(v)), j + i), hn::Set(I16(), 1));
      q[v] = hn::Or(NibblesOf(block + 48 + j * 16, i, v), hn::ShiftLeft<4>(fifth));
    }
  }
};

// The scales of 16 are multiplied in: 6 bits by 8.
struct Q6_K {
  static constexpr uint32_t kElements = 256, kBytes = 210, kStep = 4;
  static constexpr bool kHasOffset = false;
  static HWY_INLINE void Scales(const uint8_t* block, BlockScales<8>* out) {
    const float scale = HalfAtEnd(block + 208);
    for (float& s : out->scale) s = scale;
    for (size_t i = 0; i < 16; i += hn::Lanes(I16())) {
      const auto bytes = hn::LoadU(I8(), reinterpret_cast<const int8_t*>(block + 192 + i));
      hn::Store(hn::PromoteTo(I16(), bytes), I16(), out->of_16 + i);
    }
  }
  static HWY_INLINE void Quants(const uint8_t* block, const BlockScales<8>& scales, uint32_t j, uint32_t i, V16* q) {
    const uint8_t* low = block + j * 16 + i % 2 * 32;
    const uint8_t* high = block + 128 + j * 8;
    const int16_t* of_16 = scales.of_16 + 2 * (j + i);
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const V16 top = hn::And(ToBits4And5(Bytes(high + Start(v)), i), hn::Set(I16(), 0x30));
      const V16 six = hn::Or(NibblesOf(low, i / 2, v), top);
      q[v] = hn::Mul(hn::Sub(six, hn::Set(I16(), 32)), hn::Set(I16(), of_16[Start(v) / 16]));
    }
  }
  // Moves the i-th two bits of a byte there.
  static HWY_INLINE V16 ToBits4And5(V16 bytes, uint32_t i) {
    if (i == 0) return hn::ShiftLeft<4>(bytes);
    if (i == 1) return hn::ShiftLeft<2>(bytes);
    return i == 2 ? bytes : hn::ShiftRight<2>(bytes);
  }
  // Nothing lies behind it in the last row of a file: the eight bytes that are read end with it.
  static HWY_INLINE float HalfAtEnd(const uint8_t* p) {
    const hn::CappedTag<float, 4> d4;
    const hn::Rebind<hwy::float16_t, decltype(d4)> d16;
    uint64_t word;
    std::memcpy(&word, p - 6, sizeof(word));
    const auto low = hn::Set(hn::Repartition<uint64_t, decltype(d16)>(), word >> 48);
    return hn::GetLane(hn::PromoteTo(d4, hn::BitCast(d16, low)));
  }
};

// use(Q8_0()) or whatever the type is; false: it has no blocks here.
template <class Use>
bool WithBlocks(TensorType type, const Use& use) {
  switch (type) {
    case TensorType::kQ8_0: use(Q8_0()); return true;
    case TensorType::kQ4_0: use(Q4_0()); return true;
    case TensorType::kQ4_1: use(Q4_1()); return true;
    case TensorType::kQ5_0: use(Q5_0()); return true;
    case TensorType::kQ5_1: use(Q5_1()); return true;
    case TensorType::kQ4_K: use(Q4_K()); return true;
    case TensorType::kQ5_K: use(Q5_K()); return true;
    case TensorType::kQ6_K: use(Q6_K()); return true;
    default: return false;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET != HWY_SCALAR

#endif  // per-target include guard
