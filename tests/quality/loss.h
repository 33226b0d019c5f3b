// Loss of a document's tokens, dense and in each of some configurations.
#ifndef HGA_TESTS_QUALITY_LOSS_H_
#define HGA_TESTS_QUALITY_LOSS_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tests/quality/configuration.h"

namespace hga {

// Sums over the queries at positions [first, first + kBucketTokens). Losses in nats, of the token that follows.
inline constexpr uint32_t kBucketTokens = 512;
struct LossBucket {
  uint32_t first = 0;
  uint32_t queries = 0;
  double dense_nll = 0, nll = 0;
  double kl = 0;          // KL(dense || routed) over the whole vocabulary
  uint32_t same_top = 0;  // queries whose most likely token is the dense one's
  double keys = 0;        // attended, mean over layers and KV heads
  double most_keys = 0;   // of one query; not a sum
};

struct DocumentLoss {
  std::vector<LossBucket> buckets;
  double seconds = 0;  // in this configuration's steps
};

struct LossOptions {
  uint32_t start = 512;         // queries before it are computed, but have no loss
  uint32_t step_tokens = 256;
};

// All configurations go through the document side by side with the dense run, one step each, so that no logits are
// kept. progress(tokens): computed in one configuration. A step that fails ends all.
absl::StatusOr<std::vector<DocumentLoss>> MeasureLoss(Backend* backend, const KvGeometry& g,
                                                      absl::Span<const uint32_t> tokens,
                                                      const std::vector<Configuration>& configurations,
                                                      const LossOptions& options,
                                                      const std::function<void(uint32_t tokens)>& progress);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_LOSS_H_
