// Picks the next token from the logits. Equal seeds give equal tokens on every platform.
#ifndef HGA_GPU_WORKER_ENGINE_SAMPLER_H_
#define HGA_GPU_WORKER_ENGINE_SAMPLER_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gpu_worker/backend/backend.h"

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
  // How many of a row's best tokens are enough, at least most of the time; 0: all logits are needed. Does not change.
  uint32_t top_needed() const;
  // What they are to be picked after. Valid until the next call.
  TopRow top_row(absl::Span<const uint32_t> history, uint32_t vocab_size);
  // As Sample, from as many at least, best first, and the row's mass: the same token. nullopt: those do not decide it,
  // and Sample with all logits is the call that counts.
  std::optional<uint32_t> SampleTop(absl::Span<const TokenLogit> top, uint64_t mass);

 private:
  struct Candidate {
    float logit;
    uint32_t id;
    uint64_t mass;
  };
  bool penalizes() const { return options_.repetition_penalty != 1; }
  void SortCandidates();
  uint64_t WeighCandidates();
  std::optional<uint32_t> Draw(uint64_t total, bool all);
  const std::vector<uint64_t>& SeenIn(absl::Span<const uint32_t> history, size_t vocab_size);

  const SamplingOptions options_;
  uint64_t state_;
  std::vector<Candidate> candidates_;
  std::vector<uint64_t> seen_;  // a bit for each token of the vocabulary
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_SAMPLER_H_
