// Runs one sequence of one configuration through a backend, its K/V in plain memory.
#ifndef HGA_TESTS_QUALITY_SEQUENCE_RUN_H_
#define HGA_TESTS_QUALITY_SEQUENCE_RUN_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gpu_worker/backend/backend.h"
#include "tests/quality/selector.h"

namespace hga {

// Several of these take turns on one backend: it keeps nothing between steps. One thread.
//
// A step of the decode path gives each of its tokens its own keys and its own selection. All K/V that a token attends
// was computed by tokens which were decoded so themselves; only the matrix products see many rows at once.
class SequenceRun {
 public:
  SequenceRun(Backend* backend, const KvGeometry& geometry, std::unique_ptr<Selector> selector);

  // Appends tokens, at most the backend's rows. logits: of the tokens from `first_wanted` on, [n][vocab].
  absl::Status Step(Path path, absl::Span<const uint32_t> tokens, uint32_t first_wanted, std::vector<float>* logits);

  uint32_t length() const { return length_; }
  // Keys that each token of the last step attended: mean over layers and KV heads.
  const std::vector<double>& keys() const { return keys_; }

 private:
  void* BlockOf(uint32_t chunk, uint32_t layer) const { return blocks_[chunk * g_.layers + layer].get(); }
  absl::Status RunLayer(Path path, uint32_t layer, absl::Span<const BatchRow> rows);

  Backend* const backend_;
  const KvGeometry g_;
  const std::unique_ptr<Selector> selector_;
  std::vector<std::unique_ptr<uint8_t[]>> blocks_;  // [chunks][layers]
  uint32_t length_ = 0;
  std::vector<double> keys_;
  AttendPlan plan_;
  std::vector<float> missed_;
  std::vector<KvRow> kv_rows_;
};

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_SEQUENCE_RUN_H_
