// Rotary position embedding. Angles are computed in double: at position 100,000 a float would be off by 0.01 rad.
#ifndef HGA_GPU_WORKER_BACKEND_ROPE_H_
#define HGA_GPU_WORKER_BACKEND_ROPE_H_

#include <cmath>
#include <cstdint>

#include "gpu_worker/model/config.h"

namespace hga {

// cos and sin of one position's angles: [rope_dims / 2] each.
template <typename T>
void FillRope(const ModelConfig& config, uint32_t position, T* cosines, T* sines) {
  for (uint32_t i = 0; i < config.rope_dims / 2; ++i) {
    const double frequency = std::pow(static_cast<double>(config.rope_base), -2.0 * i / config.rope_dims);
    cosines[i] = static_cast<T>(std::cos(position * frequency));
    sines[i] = static_cast<T>(std::sin(position * frequency));
  }
}

// Turns the leading rope_dims elements of one head in place.
template <typename T>
void ApplyRope(RopeStyle style, uint32_t rope_dims, const T* cosines, const T* sines, T* head) {
  const uint32_t half = rope_dims / 2;
  const bool pairs = style == RopeStyle::kAdjacentPairs;
  for (uint32_t i = 0; i < half; ++i) {
    T* a = head + (pairs ? 2 * i : i);
    T* b = head + (pairs ? 2 * i + 1 : i + half);
    const T x = *a, y = *b;
    *a = x * cosines[i] - y * sines[i];
    *b = x * sines[i] + y * cosines[i];
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_ROPE_H_
