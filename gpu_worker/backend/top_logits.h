// The best tokens of a row of logits, on the host.
#ifndef HGA_GPU_WORKER_BACKEND_TOP_LOGITS_H_
#define HGA_GPU_WORKER_BACKEND_TOP_LOGITS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "gpu_worker/backend/token_logit.h"

namespace hga {

// Where the first logit is that is infinite or not a number; logits.size(): nowhere. A few microseconds.
size_t FirstNotFinite(absl::Span<const float> logits);

// Appends the `count` best, as Backend::TopLogits orders them; all if there are fewer.
void AppendTopLogits(absl::Span<const float> logits, uint32_t count, std::vector<TokenLogit>* top);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_TOP_LOGITS_H_
