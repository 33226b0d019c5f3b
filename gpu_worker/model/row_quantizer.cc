#include "gpu_worker/model/row_quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/kv/bf16.h"

namespace hga {
namespace {

// Rounds towards zero below half precision's step: exact enough for scales of random weights.
uint16_t FloatToHalf(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000;
  const int exponent = static_cast<int>(bits >> 23 & 255) - 112;
  if (exponent <= 0) return static_cast<uint16_t>(sign);
  if (exponent >= 31) return static_cast<uint16_t>(sign | 0x7bff);
  return static_cast<uint16_t>(sign | exponent << 10 | (bits >> 13 & 1023));
}

template <typename T>
void Put(std::vector<uint8_t>* out, T value) {
  const auto* raw = reinterpret_cast<const uint8_t*>(&value);
  out->insert(out->end(), raw, raw + sizeof(T));
}

void Q8Block(const float* x, std::vector<uint8_t>* out) {
  float widest = 0;
  for (int i = 0; i < 32; ++i) widest = std::max(widest, std::fabs(x[i]));
  const uint16_t half = FloatToHalf(widest / 127);
  const float scale = std::max(HalfToFloat(half), 1e-20f);
  Put(out, half);
  for (int i = 0; i < 32; ++i) Put(out, static_cast<int8_t>(std::clamp(std::lround(x[i] / scale), -127L, 127L)));
}

// Q4_0, Q4_1, Q5_0, Q5_1: scale, perhaps a minimum, perhaps the fifth bits, then nibbles.
void SmallBlock(TensorType type, const float* x, std::vector<uint8_t>* out) {
  const bool has_minimum = type == TensorType::kQ4_1 || type == TensorType::kQ5_1;
  const bool five_bits = type == TensorType::kQ5_0 || type == TensorType::kQ5_1;
  const int middle = five_bits ? 16 : 8, most = 2 * middle - 1;
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float range = has_minimum ? (*high - *low) / most : std::max(std::fabs(*low), std::fabs(*high)) / (middle - 1);
  const uint16_t half = FloatToHalf(range), minimum = FloatToHalf(*low);
  const float scale = std::max(HalfToFloat(half), 1e-20f);
  const float offset = has_minimum ? HalfToFloat(minimum) : -middle * scale;
  uint32_t q[32], fifth = 0;
  for (int i = 0; i < 32; ++i) {
    q[i] = static_cast<uint32_t>(std::clamp<long>(std::lround((x[i] - offset) / scale), 0, most));
    fifth |= (q[i] >> 4) << i;
  }
  Put(out, half);
  if (has_minimum) Put(out, minimum);
  if (five_bits) Put(out, fifth);
  for (int i = 0; i < 16; ++i) Put(out, static_cast<uint8_t>((q[i] & 15) | (q[i + 16] & 15) << 4));
}

// Weights of 6 bits and block scales of 8 to 15: their product has a standard deviation of about 217.
void RandomQ6K(float scale, std::mt19937* random, uint8_t* block) {
  for (int i = 192; i < 208; ++i) block[i] = static_cast<uint8_t>(8 + (*random)() % 8);
  const uint16_t half = FloatToHalf(scale / 217);
  std::memcpy(block + 208, &half, 2);
}

// Q4_K and Q5_K: minima as the scales, times the mean of the quants, so that the values have none. The standard
// deviation of a scale times a quant is 36.7 times 4.61 with four bits, and twice that with five.
void RandomQ45K(bool five_bits, float scale, std::mt19937* random, uint8_t* block) {
  const float deviation = scale / (five_bits ? 339.0f : 169.0f);
  const uint16_t half = FloatToHalf(deviation), minimum = FloatToHalf(deviation * (five_bits ? 15.5f : 7.5f));
  std::memcpy(block, &half, 2);
  std::memcpy(block + 2, &minimum, 2);
  std::memcpy(block + 8, block + 4, 4);
  for (int i = 12; i < 16; ++i) block[i] = static_cast<uint8_t>((*random)() % 16 * 17);  // both nibbles alike
}

}  // namespace

std::vector<uint8_t> QuantizeRow(TensorType type, const std::vector<float>& row) {
  std::vector<uint8_t> out;
  switch (type) {
    case TensorType::kF32:
      for (float x : row) Put(&out, x);
      break;
    case TensorType::kF16:
      for (float x : row) Put(&out, FloatToHalf(x));
      break;
    case TensorType::kBF16:
      for (float x : row) Put(&out, ToBf16(x).bits);
      break;
    case TensorType::kQ8_0:
      for (size_t i = 0; i + 32 <= row.size(); i += 32) Q8Block(&row[i], &out);
      break;
    default:
      for (size_t i = 0; i + 32 <= row.size(); i += 32) SmallBlock(type, &row[i], &out);
  }
  return out;
}

std::vector<uint8_t> RandomRow(TensorType type, uint32_t cols, float scale, std::mt19937* random) {
  if (TensorBlockElements(type) != 256) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> row(cols);
    for (float& x : row) x = normal(*random);
    return QuantizeRow(type, row);
  }
  std::vector<uint8_t> out(TensorRowBytes(type, cols));
  for (uint8_t& byte : out) byte = static_cast<uint8_t>((*random)());
  for (size_t block = 0; block < out.size(); block += TensorBlockBytes(type)) {
    if (type == TensorType::kQ6_K) {
      RandomQ6K(scale, random, &out[block]);
    } else {
      RandomQ45K(type == TensorType::kQ5_K, scale, random, &out[block]);
    }
  }
  return out;
}

}  // namespace hga
