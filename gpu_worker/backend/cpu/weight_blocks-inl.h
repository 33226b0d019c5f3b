// Blocks of 32 quantised weights as 16-bit integers in vector registers: w[i] = q[i] * scale + offset. For the targets
// of integer_gemm.cc and kernels.cc. The formats are described in model/quant.cc.
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

// 32 fifth bits, as 0 or 16.
HWY_INLINE V16 FifthBits(const uint8_t* bits, size_t v) {
  uint32_t word;
  std::memcpy(&word, bits, sizeof(word));
  alignas(32) int16_t fifth[16];
  for (size_t i = 0; i < hn::Lanes(I16()); ++i) fifth[i] = static_cast<int16_t>((word >> (Start(v) + i) & 1) << 4);
  return hn::Load(I16(), fifth);
}

struct Block {
  V16 q[kBlockVectors];
  float scale, offset;
};

// Each type: elements and bytes of the format's block, whether there are offsets, and its j-th 32 weights.
struct Q8_0 {
  static constexpr uint32_t kElements = 32, kBytes = 34;
  static constexpr bool kHasOffset = false;
  static HWY_INLINE void Get(const uint8_t* block, uint32_t, Block* out) {
    for (size_t v = 0; v < kBlockVectors; ++v) {
      out->q[v] = hn::PromoteTo(I16(), hn::LoadU(I8(), reinterpret_cast<const int8_t*>(block + 2 + Start(v))));
    }
    out->scale = Half(block);
  }
};

struct Q4_0 {
  static constexpr uint32_t kElements = 32, kBytes = 18;
  static constexpr bool kHasOffset = false;
  static HWY_INLINE void Get(const uint8_t* block, uint32_t, Block* out) {
    for (size_t v = 0; v < kBlockVectors; ++v) out->q[v] = hn::Sub(Nibbles16(block + 2, v), hn::Set(I16(), 8));
    out->scale = Half(block);
  }
};

struct Q4_1 {
  static constexpr uint32_t kElements = 32, kBytes = 20;
  static constexpr bool kHasOffset = true;
  static HWY_INLINE void Get(const uint8_t* block, uint32_t, Block* out) {
    for (size_t v = 0; v < kBlockVectors; ++v) out->q[v] = Nibbles16(block + 4, v);
    out->scale = Half(block);
    out->offset = Half(block + 2);
  }
};

struct Q5_0 {
  static constexpr uint32_t kElements = 32, kBytes = 22;
  static constexpr bool kHasOffset = false;
  static HWY_INLINE void Get(const uint8_t* block, uint32_t, Block* out) {
    for (size_t v = 0; v < kBlockVectors; ++v) {
      out->q[v] = hn::Sub(hn::Or(Nibbles16(block + 6, v), FifthBits(block + 2, v)), hn::Set(I16(), 16));
    }
    out->scale = Half(block);
  }
};

struct Q5_1 {
  static constexpr uint32_t kElements = 32, kBytes = 24;
  static constexpr bool kHasOffset = true;
  static HWY_INLINE void Get(const uint8_t* block, uint32_t, Block* out) {
    for (size_t v = 0; v < kBlockVectors; ++v) out->q[v] = hn::Or(Nibbles16(block + 8, v), FifthBits(block + 4, v));
    out->scale = Half(block);
    out->offset = Half(block + 2);
  }
};

// Scale and negative offset of Q4_K's and Q5_K's j-th 32.
HWY_INLINE void SixBitScales(const uint8_t* block, uint32_t j, Block* out) {
  const uint8_t* s = block + 4;
  const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
  const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
  out->scale = Half(block) * static_cast<float>(scale);
  out->offset = -Half(block + 2) * static_cast<float>(minimum);
}

// 32 nibbles in 32 bytes, the low or the high ones.
HWY_INLINE V16 NibblesOf(const uint8_t* bytes, uint32_t high, size_t v) {
  return hn::And(hn::ShiftRightSame(Bytes(bytes + Start(v)), high * 4), hn::Set(I16(), 15));
}

struct Q4_K {
  static constexpr uint32_t kElements = 256, kBytes = 144;
  static constexpr bool kHasOffset = true;
  static HWY_INLINE void Get(const uint8_t* block, uint32_t j, Block* out) {
    for (size_t v = 0; v < kBlockVectors; ++v) out->q[v] = NibblesOf(block + 16 + j / 2 * 32, j % 2, v);
    SixBitScales(block, j, out);
  }
};

struct Q5_K {
  static constexpr uint32_t kElements = 256, kBytes = 176;
  static constexpr bool kHasOffset = true;
  static HWY_INLINE void Get(const uint8_t* block, uint32_t j, Block* out) {
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const V16 fifth = hn::And(hn::ShiftRightSame(Bytes(block + 16 + Start(v)), j), hn::Set(I16(), 1));
      out->q[v] = hn::Or(NibblesOf(block + 48 + j / 2 * 32, j % 2, v), hn::ShiftLeft<4>(fifth));
    }
    SixBitScales(block, j, out);
  }
};

// The scales of 16 are multiplied in: 6 bits by 8.
struct Q6_K {
  static constexpr uint32_t kElements = 256, kBytes = 210;
  static constexpr bool kHasOffset = false;
  static HWY_INLINE void Get(const uint8_t* block, uint32_t j, Block* out) {
    const uint32_t half = j / 4, quarter = j % 4;
    const uint8_t* low = block + half * 64 + quarter % 2 * 32;
    const uint8_t* high = block + 128 + half * 32;
    const int8_t* scales = reinterpret_cast<const int8_t*>(block + 192) + 2 * j;
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const V16 top = hn::And(hn::ShiftRightSame(Bytes(high + Start(v)), 2 * quarter), hn::Set(I16(), 3));
      const V16 q = hn::Or(NibblesOf(low, quarter / 2, v), hn::ShiftLeft<4>(top));
      out->q[v] = hn::Mul(hn::Sub(q, hn::Set(I16(), 32)), hn::Set(I16(), scales[Start(v) / 16]));
    }
    out->scale = HalfAtEnd(block + 208);
  }
  // Nothing lies behind it in the last row of a file.
  static HWY_INLINE float HalfAtEnd(const uint8_t* p) {
    uint8_t copy[8] = {p[0], p[1]};
    return Half(copy);
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
