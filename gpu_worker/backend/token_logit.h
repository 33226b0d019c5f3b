// A token and its logit: what is left of a vocabulary once the best have been picked.
#ifndef HGA_GPU_WORKER_BACKEND_TOKEN_LOGIT_H_
#define HGA_GPU_WORKER_BACKEND_TOKEN_LOGIT_H_

#include <cstdint>

namespace hga {

struct TokenLogit {
  uint32_t id;
  float logit;
};

// What a token's probability is counted in: beside the likeliest token's, in parts of so many. Whole numbers, so that
// their sum does not hang on the order.
inline constexpr double kLogitMass = 1099511627776.0;  // 2^40

// Most that Backend::TopLogits gives of a row.
inline constexpr uint32_t kMaxTopLogits = 64;

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_TOKEN_LOGIT_H_
