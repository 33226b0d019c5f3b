#include "common/kv/kv_dtype.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace hga {
namespace {

constexpr KvDtype kDtypes[] = {KvDtype::kBf16, KvDtype::kFp8E4m3, KvDtype::kInt8};
constexpr int kScaleBias = 127;
constexpr int kMaxScale = 100;  // far beyond what K/V holds; keeps every product finite and normal
constexpr float kFp8Max = 448;
constexpr float kInt8Max = 127;

float MaxOf(KvDtype dtype) { return dtype == KvDtype::kInt8 ? kInt8Max : kFp8Max; }

// 2^exponent, for exponents of normal floats.
float PowerOfTwo(int exponent) {
  const uint32_t bits = static_cast<uint32_t>(exponent + 127) << 23;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// All 256 values of e4m3 (4 bits of exponent, bias 7, 3 of mantissa; 0x7f and 0xff are no numbers).
const std::array<float, 256>& Fp8Values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> v{};
    for (int code = 0; code < 256; ++code) {
      const int exponent = code >> 3 & 15, mantissa = code & 7;
      const float magnitude =
          exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9) : std::ldexp(8.0f + mantissa, exponent - 10);
      v[code] = code & 128 ? -magnitude : magnitude;
    }
    v[0x7f] = v[0xff] = v[0x80] = 0;
    return v;
  }();
  return values;
}

// Nearest e4m3, ties to even; |x| <= 448. Zero has one code.
uint8_t Fp8Code(float x) {
  const float magnitude = std::fabs(x);
  uint32_t code;
  if (magnitude < PowerOfTwo(-6)) {
    code = static_cast<uint32_t>(std::lrint(magnitude * PowerOfTwo(9)));  // subnormal, or the first normal
  } else {
    uint32_t bits;
    std::memcpy(&bits, &magnitude, sizeof(bits));
    bits += (1u << 19) - 1 + (bits >> 20 & 1);
    code = (bits >> 20) - ((127 - 7) << 3);
  }
  return static_cast<uint8_t>(code == 0 ? 0 : code | (x < 0 ? 128 : 0));
}

// The smallest scale under which the largest magnitude fits.
int ScaleOf(KvDtype dtype, float largest) {
  if (!(largest > 0)) return -kMaxScale;
  int exponent;
  std::frexp(largest / MaxOf(dtype), &exponent);
  while (exponent > -kMaxScale && largest <= MaxOf(dtype) * PowerOfTwo(exponent - 1)) --exponent;
  while (exponent < kMaxScale && largest > MaxOf(dtype) * PowerOfTwo(exponent)) ++exponent;
  return std::clamp(exponent, -kMaxScale, kMaxScale);
}

uint8_t CodeOf(KvDtype dtype, float scaled) {
  const float x = std::clamp(scaled, -MaxOf(dtype), MaxOf(dtype));
  return dtype == KvDtype::kInt8 ? static_cast<uint8_t>(static_cast<int8_t>(std::lrint(x))) : Fp8Code(x);
}

float ValueOf(KvDtype dtype, uint8_t code) {
  return dtype == KvDtype::kInt8 ? static_cast<float>(static_cast<int8_t>(code)) : Fp8Values()[code];
}

// Codes of up to 32 channels; returns their scale.
int PackChannels(KvDtype dtype, const bf16* row, size_t channels, uint8_t* codes) {
  float values[kScaledChannels];
  float largest = 0;
  for (size_t i = 0; i < channels; ++i) {
    const float x = ToFloat(row[i]);
    values[i] = std::isnan(x) ? 0 : x;
    largest = std::max(largest, std::fabs(values[i]));
  }
  const int scale = ScaleOf(dtype, largest);
  const float inverse = PowerOfTwo(-scale);
  for (size_t i = 0; i < channels; ++i) codes[i] = CodeOf(dtype, values[i] * inverse);
  return scale;
}

void UnpackChannels(KvDtype dtype, const uint8_t* codes, size_t channels, int scale, bf16* row) {
  const float factor = PowerOfTwo(scale);
  for (size_t i = 0; i < channels; ++i) row[i] = ToBf16(ValueOf(dtype, codes[i]) * factor);
}

template <typename F>
void ForEachScale(size_t head_dim, F&& work) {
  for (size_t first = 0, scale = 0; first < head_dim; first += kScaledChannels, ++scale)
    work(scale, first, std::min(kScaledChannels, head_dim - first));
}

}  // namespace

const char* KvDtypeName(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kBf16: return "bf16";
    case KvDtype::kFp8E4m3: return "fp8_e4m3";
    case KvDtype::kInt8: return "int8";
  }
  return "unknown";
}

absl::StatusOr<KvDtype> ParseKvDtype(absl::string_view name) {
  for (KvDtype dtype : kDtypes) {
    if (name == KvDtypeName(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("'", name, "' is not bf16, fp8_e4m3 or int8"));
}

void RoundKvRow(KvDtype dtype, bf16* row, size_t head_dim) {
  if (dtype == KvDtype::kBf16) return;
  ForEachScale(head_dim, [&](size_t, size_t first, size_t channels) {
    uint8_t codes[kScaledChannels];
    const int scale = PackChannels(dtype, row + first, channels, codes);
    UnpackChannels(dtype, codes, channels, scale, row + first);
  });
}

bool PackKvRow(KvDtype dtype, const bf16* row, size_t head_dim, uint8_t* packed) {
  bool exact = true;
  uint8_t* codes = packed + (head_dim + kScaledChannels - 1) / kScaledChannels;
  ForEachScale(head_dim, [&](size_t s, size_t first, size_t channels) {
    const int scale = PackChannels(dtype, row + first, channels, codes + first);
    packed[s] = static_cast<uint8_t>(scale + kScaleBias);
    bf16 again[kScaledChannels];
    UnpackChannels(dtype, codes + first, channels, scale, again);
    exact = exact && std::memcmp(again, row + first, channels * sizeof(bf16)) == 0;
  });
  return exact;
}

void UnpackKvRow(KvDtype dtype, const uint8_t* packed, size_t head_dim, bf16* row) {
  const uint8_t* codes = packed + (head_dim + kScaledChannels - 1) / kScaledChannels;
  ForEachScale(head_dim, [&](size_t s, size_t first, size_t channels) {
    const int scale = std::clamp(packed[s] - kScaleBias, -kMaxScale, kMaxScale);
    UnpackChannels(dtype, codes + first, channels, scale, row + first);
  });
}

}  // namespace hga
