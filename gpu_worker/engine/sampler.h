// Picks the next token from the logits. Equal seeds give equal tokens on every platform.
#ifndef HGA_GPU_WORKER_ENGINE_SAMPLER_H_
#define HGA_GPU_WORKER_ENGINE_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gpu_worker/backend/token_logit.h"

namespace hga {

struct SamplingOptions {
  float temperature = 0;         // 0: greedy
  uint32_t top_k = 0;            // 0: off
  float top_p = 0;               // 0 or 1: off
  float min_p = 0;               // 0: off
  float repetition_penalty = 1;  // 1: off
  uint64_t seed = 0;

  // INVALID_ARGUMENT names the field.
  absl::Status Validate() const;
};

// INTERNAL where a logit is infinite or not a number: no token of such a step may be handed out. The causes are damaged
// weights that the sample at loading missed, or K/V made with such weights.
absl::Status CheckLogits(absl::Span<const float> logits);
// The same of a row's best (Backend::TopLogits).
absl::Status CheckTopLogits(absl::Span<const TokenLogit> top);

// One per sequence; not thread-safe. The n-th call depends on the seed, n and its arguments only.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options), state_(options.seed) {}

  // logits: [vocab]; changed where a repetition penalty applies. history: the tokens of the sequence so far.
  uint32_t Sample(absl::Span<float> logits, absl::Span<const uint32_t> history);
  // How many of a row's best tokens are enough; 0: all logits are needed. Does not change.
  uint32_t top_needed() const;
  // As Sample, from as many at least, best first: the same token.
  uint32_t SampleTop(absl::Span<const TokenLogit> top);

 private:
  struct Candidate {
    float weight;  // logit, then probability without its norm
    uint32_t id;
  };
  uint32_t Draw();
  void Penalize(absl::Span<float> logits, absl::Span<const uint32_t> history);
  void Truncate();
  double NextUniform();

  const SamplingOptions options_;
  uint64_t state_;
  std::vector<Candidate> candidates_;
  std::vector<bool> seen_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_SAMPLER_H_
