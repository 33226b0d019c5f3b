#include "gpu_worker/model/quant.h"

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
  void (*dequantize)(const uint8_t* block, float* out);
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

// Fifth bits as a 32-bit mask, then nibbles as in Q4: q of element i, for i of 0 to 31.
int FiveBits(uint32_t high, const uint8_t* nibbles, int i) {
  const int low = i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
  return low | static_cast<int>(high >> i & 1) << 4;
}

// f16 scale, 4 bytes of fifth bits, 16 bytes of nibbles: value = (q - 16) * scale.
void Q5_0(const uint8_t* block, float* out) {
  const float scale = HalfToFloat(Load16(block));
  const uint32_t high = Load32(block + 2);
  for (int i = 0; i < 32; ++i) out[i] = (FiveBits(high, block + 6, i) - 16) * scale;
}

// f16 scale, f16 minimum, 4 bytes of fifth bits, 16 bytes of nibbles: value = q * scale + minimum.
void Q5_1(const uint8_t* block, float* out) {
  const float scale = HalfToFloat(Load16(block)), minimum = HalfToFloat(Load16(block + 2));
  const uint32_t high = Load32(block + 4);
  for (int i = 0; i < 32; ++i) out[i] = FiveBits(high, block + 8, i) * scale + minimum;
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

// 256 elements: ql[128] low 4 bits, qh[64] high 2 bits, scales[16] signed bytes, f16 super-scale.
void Q6_K(const uint8_t* block, float* out) {
  const uint8_t* ql = block;
  const uint8_t* qh = block + 128;
  const int8_t* scales = reinterpret_cast<const int8_t*>(block + 192);
  const float d = HalfToFloat(Load16(block + 208));
  for (int half = 0; half < 2; ++half, out += 128, ql += 64, qh += 32, scales += 8) {
    for (int l = 0; l < 32; ++l) {
      const int is = l / 16;
      const int q1 = ((ql[l] & 15) | ((qh[l] & 3) << 4)) - 32;
      const int q2 = ((ql[l + 32] & 15) | (((qh[l] >> 2) & 3) << 4)) - 32;
      const int q3 = ((ql[l] >> 4) | (((qh[l] >> 4) & 3) << 4)) - 32;
      const int q4 = ((ql[l + 32] >> 4) | ((qh[l] >> 6) << 4)) - 32;
      out[l] = d * scales[is] * q1;
      out[l + 32] = d * scales[is + 2] * q2;
      out[l + 64] = d * scales[is + 4] * q3;
      out[l + 96] = d * scales[is + 6] * q4;
    }
  }
}

// e4m3 without infinities: 4 exponent bits with bias 7, 3 mantissa bits; all ones is not a number. Tiles' scales are
// not known here.
void F8E4M3(const uint8_t* block, float* out) {
  const uint32_t sign = uint32_t{*block} >> 7 << 31, exponent = *block >> 3 & 15, mantissa = *block & 7;
  uint32_t bits = sign | (exponent + 120) << 23 | mantissa << 20;
  if (exponent == 15 && mantissa == 7) bits = sign | 0x7ff00000u;
  if (exponent == 0) {
    const float subnormal = static_cast<float>(mantissa) * 0.001953125f;  // 2^-9
    std::memcpy(&bits, &subnormal, sizeof(bits));
    bits |= sign;
  }
  std::memcpy(out, &bits, sizeof(bits));
}

constexpr TypeTraits kTypes[] = {
    {TensorType::kF32, "F32", 1, 4, F32, {-1, -1}},
    {TensorType::kF16, "F16", 1, 2, F16, {-1, -1}},
    {TensorType::kBF16, "BF16", 1, 2, BF16, {-1, -1}},
    {TensorType::kQ4_0, "Q4_0", 32, 18, Q4_0, {0, -1}},
    {TensorType::kQ4_1, "Q4_1", 32, 20, Q4_1, {0, 2}},
    {TensorType::kQ5_0, "Q5_0", 32, 22, Q5_0, {0, -1}},
    {TensorType::kQ5_1, "Q5_1", 32, 24, Q5_1, {0, 2}},
    {TensorType::kQ8_0, "Q8_0", 32, 34, Q8_0, {0, -1}},
    {TensorType::kQ4_K, "Q4_K", 256, 144, Q4_K, {0, 2}},
    {TensorType::kQ5_K, "Q5_K", 256, 176, Q5_K, {0, 2}},
    {TensorType::kQ6_K, "Q6_K", 256, 210, Q6_K, {208, -1}},
    {TensorType::kF8E4M3, "F8_E4M3", 1, 1, F8E4M3, {-1, -1}},
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
  for (uint32_t i = 0; i < cols; i += traits.block_elements, row += traits.block_bytes) {
    traits.dequantize(row, out + i);
  }
}

bool RowIsFinite(TensorType type, const uint8_t* row, uint32_t cols) {
  const TypeTraits& traits = Traits(type);
  for (uint32_t i = 0; i < cols; i += traits.block_elements, row += traits.block_bytes) {
    if (traits.block_elements == 1) {
      float value;
      traits.dequantize(row, &value);
      if (!std::isfinite(value)) return false;
    }
    for (int offset : traits.half_scales) {
      if (offset >= 0 && !std::isfinite(HalfToFloat(Load16(row + offset)))) return false;
    }
  }
  return true;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half} >> 15 << 31;
  uint32_t exponent = (half >> 10) & 31, mantissa = half & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13;
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {
    // Zero or subnormal: mantissa * 2^-24 is exact in a float.
    float f = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    std::memcpy(&bits, &f, sizeof(bits));
    bits |= sign;
  }
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

}  // namespace hga
