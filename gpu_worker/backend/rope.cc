#include "gpu_worker/backend/rope.h"

#include <cmath>

namespace hga {

Rope::Rope(const ModelConfig& config)
    : adjacent_(config.rope_style == RopeStyle::kAdjacentPairs),
      frequency_(config.rope_dims / 2),
      cos_(config.rope_dims / 2),
      sin_(config.rope_dims / 2) {
  for (size_t i = 0; i < frequency_.size(); ++i) {
    frequency_[i] = std::pow(static_cast<double>(config.rope_base), -2.0 * i / config.rope_dims);
  }
}

void Rope::SetPosition(uint32_t position) {
  for (size_t i = 0; i < frequency_.size(); ++i) {
    cos_[i] = std::cos(position * frequency_[i]);
    sin_[i] = std::sin(position * frequency_[i]);
  }
}

}  // namespace hga
