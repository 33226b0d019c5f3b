// K/V of int8 (common/kv/kv_rows.h) on the device: codes of 8 bits, and a power of two for each 32 channels.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_INT8_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_INT8_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"

namespace hga {

static_assert(kInt8Channels == kWarp);
inline constexpr int32_t kInt8MaxScale = 100;

// 2^(scale - 127), for scales as they are stored: those of normal floats.
HGA_DEVICE float Int8Step(uint32_t scale) { return __uint_as_float(scale << 23); }

// The stored scale under which `largest` just fits into 127 steps.
HGA_DEVICE uint32_t Int8ScaleOf(float largest) {
  const uint32_t bits = __float_as_uint(largest);
  // 127 is 2^6 times 127/64: what is larger than that as a mantissa takes one doubling more.
  const int32_t exponent = static_cast<int32_t>(bits >> 23) - 127 - 6 + ((bits & 0x7fffffu) > 0x7e0000u ? 1 : 0);
  return 127 + (exponent < -kInt8MaxScale ? -kInt8MaxScale : exponent > kInt8MaxScale ? kInt8MaxScale : exponent);
}

// A bf16's value as int8 holds it, of kInt8Channels that the lanes of a warp have: all of them call it.
HGA_DEVICE bf16 RoundToInt8(bf16 x) {
  float value = Widen(x);
  if (value != value) value = 0;
  const uint32_t scale = Int8ScaleOf(WarpMax(fabsf(value)));
  const float codes = rintf(value * Int8Step(254 - scale));
  return Narrow((codes > 127 ? 127 : codes < -127 ? -127 : codes) * Int8Step(scale));
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_INT8_H_
