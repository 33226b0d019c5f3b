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

// e^((logit - largest) / temperature), in parts of kLogitMass.
uint64_t LogitMass(float logit, float largest, float temperature);

// See TopRow::penalty.
void PenalizeLogits(float penalty, absl::Span<const uint64_t> seen, absl::Span<float> logits);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_TOP_LOGITS_H_
