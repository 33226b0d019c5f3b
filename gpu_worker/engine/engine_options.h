// What shapes the engine's work. Constant after start.
#ifndef HGA_GPU_WORKER_ENGINE_ENGINE_OPTIONS_H_
#define HGA_GPU_WORKER_ENGINE_ENGINE_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/kv/geometry.h"

namespace hga {

// The history that a budget's fraction is of, however long it is.
inline constexpr uint32_t kAlwaysLinear = UINT32_MAX;

// Historical tokens a query may attend by routing: fraction of its history, not below the floor, not above the cap. And
// how they are shared out (docs/quality.md has what each costs and gains).
struct BudgetOptions {
  // A tenth keeps the answers of the reference models close to dense; 1 or more selects everything.
  float fraction = 0.10f;
  // Below 512 tokens of history-by-routing nothing is gained: the window and sink cost as much.
  uint32_t min_tokens = 512;
  // Bounds what one query reads, however long the context.
  uint32_t max_tokens = 4096;
  // The fraction is of this much of the history; beyond, the budget grows by the square root: twice the keys for four
  // times the history lose no more (decision 38).
  uint32_t linear_tokens = 8192;
  // The KV heads of a layer and the layers of a step share the budget: keys go to where the attention is. Else each KV
  // head of each layer has the same number.
  bool shared = true;
  // With `shared`: a key needs at least so many even shares of the attention (1 / budget of it), at a budget of 384
  // keys. Of a larger budget fewer (StepBudget), since shares fall faster than their ranks. What is not worth reading
  // is left to layers that need it.
  float least_share = 0.034f;
  // With `shared`: most that a layer may take, in budgets. The first layers want several times as much as later ones.
  float layer_cap = 2;
  // With `shared`: most that the layers of a token's step may take on average, in budgets. 1: no token reads more than
  // its budget; above, those with much to find may, while least_share keeps the average at about the budget. In a
  // prefill chunk, whose tokens share what they select, each layer has one budget.
  float step_cap = 1.5f;
  // With `shared`: what is left of that for each later layer at least, in budgets.
  float layer_floor = 0.5f;
  // With `shared`: a layer's selection ends when it and what is attended anyway have this share of the attention, as
  // far as the summaries can tell. 1: never.
  float top_p = 1;
  // Keys that are not read count as so many keys with their chunk's mean key and the mean of the values that are read.
  bool residual = false;
  // An answer's tokens below this position attend everything and ask no router: so little is read faster than chosen
  // from (docs/performance.md), and nothing is left out. 0: none do.
  uint32_t dense_decode_tokens = 1024;

  // Keys for a history of so many tokens, not bounded by what there is of it.
  uint32_t Keys(uint64_t history_tokens) const;
  // For whoever names a fraction, floor or cap: what is named is meant of all of the history, short or long.
  void KeepAsNamed();
};

struct EngineOptions {
  // Newest tokens that an answer's token attends always. One chunk: more of them are worth less than chosen keys.
  uint32_t window_tokens = 64;
  // The same for a prompt's tokens. One prefill batch, so that everything a batch routes over was sealed before it.
  uint32_t prefill_window_tokens = 256;
  // First tokens, attended always: attention sinks. More of them cost keys that are worth more (decision 31).
  uint32_t sink_tokens = 4;
  BudgetOptions budget;
  // A prompt's tokens below this position attend everything, routed request or not. Up to 8K routing does not
  // make prefill faster on the cpu backend (docs/performance.md), and what is kept of a document is exact.
  uint32_t dense_prefill_tokens = 8192;
  // Tokens of a routed prompt that share what they select: 16, 32 or a chunk. Fewer lose less and cost more time.
  uint32_t prefill_block_tokens = 32;
  // Rows of a prefill step; at most prefill_window_tokens.
  uint32_t prefill_batch_tokens = 256;
  // Sequences that are computed at a time: each holds its window and sink in the arena.
  uint32_t max_sequences = 4;
  // Requests that wait for their turn; beyond that RESOURCE_EXHAUSTED.
  uint32_t max_waiting = 16;
  // Longest sequence that goes on densely while the router is away; 0: the model's context.
  uint32_t max_dense_tokens = 0;
  // An answer's token asks the router a layer ahead, with queries guessed from what it holds by then, and brings what
  // is selected from the store and to the device before it is needed. Never changes a token (decision 25).
  bool early_selection = false;
  // Memory for copies of single keys of blocks that find no room in the arena (key_cache.h), beside which they take
  // slots there; 0: none. It is taken when that first happens. Never changes a token.
  uint64_t key_cache_bytes = uint64_t{160} << 20;
  // Threads that sum up a finished chunk's keys, beside the step's. One keeps up with a CPU.
  uint32_t seal_threads = 1;
  // How keys are summed up for the router (common/kv/summary.h).
  std::string summary_method = "dealt";

  // INVALID_ARGUMENT names the flag.
  absl::Status Validate(const KvGeometry& g) const;
};

// INVALID_ARGUMENT unless 0 < fraction and floor <= cap.
absl::Status ValidateBudget(const BudgetOptions& budget);

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_ENGINE_OPTIONS_H_
