#include "gpu_worker/model/quant.h"

#include <array>
#include <cmath>
#include <cstring>

#include "common/base/check.h"

namespace hga {
namespace {

// Scales are half precision and quants and sub-scales have at most 8 bits, so every product below is exact in a float
// (11 + 6 + 6 bits at most) and only the last addition rounds: the result is the same bits with and without FMA.
struct TypeTraits {
  TensorType type;
  const char* name;
  uint32_t block_elements;
  uint32_t block_bytes;
  void (*dequantize)(const uint8_t* row, uint32_t blocks, float* out);
  int half_scales[2];  // offsets of the half-precision scales in a block; -1: none
};

uint16_t Load16(const uint8_t* p) {
  uint16_t x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

void F32(const uint8_t* block, float* out) { std::memcpy(out, block, sizeof(float)); }
void F16(const uint8_t* block, float* out) { *out = HalfToFloat(Load16(block)); }
void BF16(const uint8_t* block, float* out) {
  const uint32_t wide = uint32_t{Load16(block)} << 16;
  std::memcpy(out, &wide, sizeof(wide));
}

// f16 scale, 16 bytes: low nibbles are the first 16 elements, high nibbles the last; value = (q - 8) * scale.
void Q4_0(const uint8_t* block, float* out) {
  const float scale = HalfToFloat(Load16(block));
  for (int i = 0; i < 16; ++i) {
    out[i] = ((block[2 + i] & 15) - 8) * scale;
    out[i + 16] = ((block[2 + i] >> 4) - 8) * scale;
  }
}

// f16 scale, f16 minimum, 16 bytes of nibbles: value = q * scale + minimum.
void Q4_1(const uint8_t* block, float* out) {
  const float scale = HalfToFloat(Load16(block)), minimum = HalfToFloat(Load16(block + 2));
  for (int i = 0; i < 16; ++i) {
    out[i] = (block[4 + i] & 15) * scale + minimum;
    out[i + 16] = (block[4 + i] >> 4) * scale + minimum;
  }
}

uint32_t Load32(const uint8_t* p) {
  uint32_t x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

// Q5_0 and Q5_1 after their scales: 32 fifth bits, then nibbles as in Q4. value = (q - middle) * scale + minimum.
void FiveBits(const uint8_t* quants, int middle, float scale, float minimum, float* out) {
  const uint32_t fifth = Load32(quants);
  for (int i = 0; i < 16; ++i) {
    const int low = (quants[4 + i] & 15) | static_cast<int>(fifth >> i & 1) << 4;
    const int high = quants[4 + i] >> 4 | static_cast<int>(fifth >> (i + 16) & 1) << 4;
    out[i] = (low - middle) * scale + minimum;
    out[i + 16] = (high - middle) * scale + minimum;
  }
}

// f16 scale, 4 bytes of fifth bits, 16 bytes of nibbles. The minimum keeps a zero's sign: x + -0 is x.
void Q5_0(const uint8_t* block, float* out) { FiveBits(block + 2, 16, HalfToFloat(Load16(block)), -0.0f, out); }

// f16 scale, f16 minimum, 4 bytes of fifth bits, 16 bytes of nibbles.
void Q5_1(const uint8_t* block, float* out) {
  FiveBits(block + 4, 0, HalfToFloat(Load16(block)), HalfToFloat(Load16(block + 2)), out);
}

// f16 scale, 32 signed bytes.
void Q8_0(const uint8_t* block, float* out) {
  const float scale = HalfToFloat(Load16(block));
  for (int i = 0; i < 32; ++i) out[i] = static_cast<int8_t>(block[2 + i]) * scale;
}

// Scale and minimum of the j-th 32 elements in Q4_K and Q5_K: 8 pairs of 6 bits in 12 bytes. The first four pairs are
// the low 6 bits of bytes 0 to 3 and 4 to 7, whose high 2 bits top up the nibbles of bytes 8 to 11 for the last four.
struct ScaleAndMinimum {
  int scale, minimum;
};
ScaleAndMinimum SixBits(const uint8_t* packed, int j) {
  if (j < 4) return {packed[j] & 63, packed[j + 4] & 63};
  return {(packed[j + 4] & 15) | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4};
}

// 256 elements: f16 scale of scales, f16 scale of minima, 12 bytes of scales and minima, 128 bytes of nibbles: each 32
// bytes hold 32 elements in the low and the next 32 in the high nibbles. value = scale * q - minimum.
void Q4_K(const uint8_t* block, float* out) {
  const float d = HalfToFloat(Load16(block)), dmin = HalfToFloat(Load16(block + 2));
  for (int j = 0; j < 8; ++j, out += 32) {
    const ScaleAndMinimum sub = SixBits(block + 4, j);
    const float scale = d * sub.scale, minimum = dmin * sub.minimum;
    const uint8_t* nibbles = block + 16 + j / 2 * 32;
    for (int l = 0; l < 32; ++l) out[l] = scale * (nibbles[l] >> j % 2 * 4 & 15) - minimum;
  }
}

// As Q4_K, with 32 bytes before the nibbles: bit j of byte l is the fifth bit of element l of the j-th 32.
void Q5_K(const uint8_t* block, float* out) {
  const float d = HalfToFloat(Load16(block)), dmin = HalfToFloat(Load16(block + 2));
  const uint8_t* high = block + 16;
  for (int j = 0; j < 8; ++j, out += 32) {
    const ScaleAndMinimum sub = SixBits(block + 4, j);
    const float scale = d * sub.scale, minimum = dmin * sub.minimum;
    const uint8_t* nibbles = block + 48 + j / 2 * 32;
    for (int l = 0; l < 32; ++l) {
      out[l] = scale * ((nibbles[l] >> j % 2 * 4 & 15) | (high[l] >> j & 1) << 4) - minimum;
    }
  }
}

// 256 elements: ql[128] low 4 bits, qh[64] high 2 bits, scales[16] signed bytes, f16 super-scale. Each half of the
// block is 4 times 32 elements: the j-th has the low or high nibbles of 32 bytes of ql, and bits 2j of 32 bytes of qh.
void Q6_K(const uint8_t* block, float* out) {
  const float d = HalfToFloat(Load16(block + 208));
  for (int part = 0; part < 16; ++part) {  // of 16 elements, with one scale
    const int half = part / 8, j = part % 8 / 2, first = part % 2 * 16;
    const uint8_t* ql = block + half * 64 + j % 2 * 32 + first;
    const uint8_t* qh = block + 128 + half * 32 + first;
    const float scale = d * static_cast<int8_t>(block[192 + part]);
    for (int l = 0; l < 16; ++l) {
      out[part * 16 + l] = scale * (((ql[l] >> j / 2 * 4 & 15) | (qh[l] >> 2 * j & 3) << 4) - 32);
    }
  }
}

// e4m3 without infinities: 4 exponent bits with bias 7, 3 mantissa bits; all ones is not a number.
float FloatOfE4M3(uint8_t code) {
  const uint32_t sign = uint32_t{code} >> 7 << 31, exponent = code >> 3 & 15, mantissa = code & 7;
  uint32_t bits = sign | (exponent + 120) << 23 | mantissa << 20;
  if (exponent == 15 && mantissa == 7) bits = sign | 0x7ff00000u;
  if (exponent == 0) {
    const float subnormal = static_cast<float>(mantissa) * 0.001953125f;  // 2^-9
    std::memcpy(&bits, &subnormal, sizeof(bits));
    bits |= sign;
  }
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

// Tiles' scales are not known here.
void F8E4M3(const uint8_t* block, float* out) {
  static const std::array<float, 256> kFloats = [] {
    std::array<float, 256> floats;
    for (int code = 0; code < 256; ++code) floats[code] = FloatOfE4M3(static_cast<uint8_t>(code));
    return floats;
  }();
  *out = kFloats[*block];
}

// One call for a row, so that the compiler sees the loop over its blocks.
template <void (*kBlock)(const uint8_t*, float*), uint32_t kElements, uint32_t kBytes>
void Row(const uint8_t* row, uint32_t blocks, float* out) {
  for (uint32_t i = 0; i < blocks; ++i) kBlock(row + size_t{i} * kBytes, out + size_t{i} * kElements);
}

template <void (*kBlock)(const uint8_t*, float*), uint32_t kElements, uint32_t kBytes>
constexpr TypeTraits Type(TensorType type, const char* name, int half_scale = -1, int other_half_scale = -1) {
  return {type, name, kElements, kBytes, Row<kBlock, kElements, kBytes>, {half_scale, other_half_scale}};
}

constexpr TypeTraits kTypes[] = {
    Type<F32, 1, 4>(TensorType::kF32, "F32"),
    Type<F16, 1, 2>(TensorType::kF16, "F16"),
    Type<BF16, 1, 2>(TensorType::kBF16, "BF16"),
    Type<Q4_0, 32, 18>(TensorType::kQ4_0, "Q4_0", 0),
    Type<Q4_1, 32, 20>(TensorType::kQ4_1, "Q4_1", 0, 2),
    Type<Q5_0, 32, 22>(TensorType::kQ5_0, "Q5_0", 0),
    Type<Q5_1, 32, 24>(TensorType::kQ5_1, "Q5_1", 0, 2),
    Type<Q8_0, 32, 34>(TensorType::kQ8_0, "Q8_0", 0),
    Type<Q4_K, 256, 144>(TensorType::kQ4_K, "Q4_K", 0, 2),
    Type<Q5_K, 256, 176>(TensorType::kQ5_K, "Q5_K", 0, 2),
    Type<Q6_K, 256, 210>(TensorType::kQ6_K, "Q6_K", 208),
    Type<F8E4M3, 1, 1>(TensorType::kF8E4M3, "F8_E4M3"),
};

const TypeTraits& Traits(TensorType type) {
  const TypeTraits* found = nullptr;
  for (const TypeTraits& traits : kTypes) {
    if (traits.type == type) found = &traits;
  }
  HGA_CHECK(found != nullptr);
  return *found;
}

}  // namespace

bool TensorTypeSupported(uint32_t gguf_type) {
  for (const TypeTraits& traits : kTypes) {
    if (static_cast<uint32_t>(traits.type) == gguf_type) return traits.type != TensorType::kF8E4M3;
  }
  return false;
}

const char* TensorTypeName(TensorType type) { return Traits(type).name; }
uint32_t TensorBlockElements(TensorType type) { return Traits(type).block_elements; }

uint32_t TensorBlockBytes(TensorType type) { return Traits(type).block_bytes; }

size_t TensorRowBytes(TensorType type, uint32_t cols) {
  const TypeTraits& traits = Traits(type);
  return size_t{cols} / traits.block_elements * traits.block_bytes;
}

void DequantizeRow(TensorType type, const uint8_t* row, uint32_t cols, float* out) {
  const TypeTraits& traits = Traits(type);
  traits.dequantize(row, cols / traits.block_elements, out);
}

bool RowIsFinite(TensorType type, const uint8_t* row, uint32_t cols) {
  const TypeTraits& traits = Traits(type);
  for (uint32_t i = 0; i < cols; i += traits.block_elements, row += traits.block_bytes) {
    if (traits.block_elements == 1) {
      float value;
      traits.dequantize(row, 1, &value);
      if (!std::isfinite(value)) return false;
    }
    for (int offset : traits.half_scales) {
      if (offset >= 0 && !std::isfinite(HalfToFloat(Load16(row + offset)))) return false;
    }
  }
  return true;
}

// Masks in the place of branches, so that rows of halves become vector code.
float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half} >> 15 << 31, exponent = half >> 10 & 31, mantissa = half & 1023;
  const float subnormal = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24; exact, as is zero
  uint32_t bits;
  std::memcpy(&bits, &subnormal, sizeof(bits));
  const uint32_t if_normal = 0u - (exponent != 0), if_special = 0u - (exponent == 31);
  const uint32_t normal = ((exponent + 112) | (if_special & 255)) << 23 | mantissa << 13;
  bits = sign | (normal & if_normal) | (bits & ~if_normal);
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

}  // namespace hga
