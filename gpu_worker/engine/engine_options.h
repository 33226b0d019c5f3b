// What shapes the engine's work. Constant after start.
#ifndef HGA_GPU_WORKER_ENGINE_ENGINE_OPTIONS_H_
#define HGA_GPU_WORKER_ENGINE_ENGINE_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/kv/geometry.h"

namespace hga {

// Historical tokens a query may attend by routing: fraction of its history, not below the floor, not above the cap.
struct BudgetOptions {
  // A tenth keeps the answers of the reference models close to dense; 1 or more selects everything.
  float fraction = 0.10f;
  // Below 512 tokens of history-by-routing nothing is gained: the window and sink cost as much.
  uint32_t min_tokens = 512;
  // Bounds what one query reads, however long the context.
  uint32_t max_tokens = 4096;
};

struct EngineOptions {
  // Newest tokens that an answer's token attends always. One chunk: more of them are worth less than chosen keys.
  uint32_t window_tokens = 64;
  // The same for a prompt's tokens. One prefill batch, so that everything a batch routes over was sealed before it.
  uint32_t prefill_window_tokens = 256;
  // First tokens, attended always. One group: attention sinks are the first few tokens.
  uint32_t sink_tokens = 16;
  BudgetOptions budget;
  // A prompt's tokens below this position attend everything, routed request or not. Up to 8K routing does not
  // make prefill faster on the cpu backend (docs/performance.md), and what is kept of a document is exact.
  uint32_t dense_prefill_tokens = 8192;
  // Rows of a prefill step; at most prefill_window_tokens.
  uint32_t prefill_batch_tokens = 256;
  // Sequences that are computed at a time: each holds its window and sink in the arena.
  uint32_t max_sequences = 4;
  // Requests that wait for their turn; beyond that RESOURCE_EXHAUSTED.
  uint32_t max_waiting = 16;
  // Longest sequence that goes on densely while the router is away; 0: the model's context.
  uint32_t max_dense_tokens = 0;
  // How keys are summed up for the router (common/kv/summary.h).
  std::string summary_method = "sketch";

  // INVALID_ARGUMENT names the flag.
  absl::Status Validate(const KvGeometry& g) const;
};

// INVALID_ARGUMENT unless 0 < fraction and floor <= cap.
absl::Status ValidateBudget(const BudgetOptions& budget);

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_ENGINE_OPTIONS_H_
