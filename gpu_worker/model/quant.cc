#include "gpu_worker/model/quant.h"

#include <cstring>

#include "common/base/check.h"

namespace hga {
namespace {

struct TypeTraits {
  TensorType type;
  const char* name;
  uint32_t block_elements;
  uint32_t block_bytes;
  void (*dequantize)(const uint8_t* block, float* out);
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

// f16 scale, 32 signed bytes.
void Q8_0(const uint8_t* block, float* out) {
  const float scale = HalfToFloat(Load16(block));
  for (int i = 0; i < 32; ++i) out[i] = static_cast<int8_t>(block[2 + i]) * scale;
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

constexpr TypeTraits kTypes[] = {
    {TensorType::kF32, "F32", 1, 4, F32},        {TensorType::kF16, "F16", 1, 2, F16},
    {TensorType::kBF16, "BF16", 1, 2, BF16},     {TensorType::kQ4_0, "Q4_0", 32, 18, Q4_0},
    {TensorType::kQ4_1, "Q4_1", 32, 20, Q4_1},   {TensorType::kQ8_0, "Q8_0", 32, 34, Q8_0},
    {TensorType::kQ6_K, "Q6_K", 256, 210, Q6_K},
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
    if (static_cast<uint32_t>(traits.type) == gguf_type) return true;
  }
  return false;
}

const char* TensorTypeName(TensorType type) { return Traits(type).name; }
uint32_t TensorBlockElements(TensorType type) { return Traits(type).block_elements; }

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
