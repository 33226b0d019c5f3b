// Rotary position embedding, shared by the backends on the host.
#ifndef HGA_GPU_WORKER_BACKEND_ROPE_H_
#define HGA_GPU_WORKER_BACKEND_ROPE_H_

#include <cstdint>
#include <vector>

#include "gpu_worker/model/config.h"

namespace hga {

// Radians per position of each pair, [rope_dims / 2]: base^(-2i / rope_dims), stretched as the model's scaling says.
//   linear:  divided by factor (arXiv 2306.15595)
//   llama3:  wavelengths above original_context / low_frequency_factor are stretched by factor, those below
//            original_context / high_frequency_factor are kept, a linear blend between (Llama 3.1)
//   yarn:    pairs that turn less than beta_slow times in the original context are stretched, those that turn more
//            than beta_fast times are kept, a linear ramp over the pair's number between (arXiv 2309.00071)
// Then divided by the file's own divisors, where it has them.
std::vector<double> RopeFrequencies(const ModelConfig& config);

// What queries and keys are multiplied with: YaRN's attention factor, else 1.
double RopeMagnitude(const ModelConfig& config);

// Sines and cosines of one position, [rope_dims / 2] each. One thread.
class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  void SetPosition(uint32_t position);
  // Turns the leading rope_dims of one head in place.
  template <typename T>
  void Apply(T* head) const {
    const uint32_t pairs = static_cast<uint32_t>(cos_.size());
    for (uint32_t i = 0; i < pairs; ++i) {
      const uint32_t a = adjacent_ ? 2 * i : i, b = adjacent_ ? 2 * i + 1 : i + pairs;
      const T x = head[a], y = head[b];
      head[a] = static_cast<T>(x * cos_[i] - y * sin_[i]);
      head[b] = static_cast<T>(x * sin_[i] + y * cos_[i]);
    }
  }

 private:
  const bool adjacent_;
  const double magnitude_;
  const std::vector<double> frequency_;
  std::vector<double> cos_, sin_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_ROPE_H_
