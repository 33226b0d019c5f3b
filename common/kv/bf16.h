// bfloat16 as stored in K/V blocks, summaries and route messages.
#ifndef HGA_COMMON_KV_BF16_H_
#define HGA_COMMON_KV_BF16_H_

#include <cstdint>
#include <cstring>

namespace hga {

struct bf16 {
  uint16_t bits;
};
static_assert(sizeof(bf16) == 2);

inline float ToFloat(bf16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float f;
  std::memcpy(&f, &wide, sizeof(f));
  return f;
}

// Round to nearest, ties to even; NaN stays NaN.
inline bf16 ToBf16(float f) {
  uint32_t wide;
  std::memcpy(&wide, &f, sizeof(wide));
  if ((wide & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((wide >> 16) | 0x40)};
  return bf16{static_cast<uint16_t>((wide + 0x7fffu + ((wide >> 16) & 1)) >> 16)};
}

}  // namespace hga

#endif  // HGA_COMMON_KV_BF16_H_
