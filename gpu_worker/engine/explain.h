// Why a query attended what it did: the router's scores and choice beside the attention over all keys.
#ifndef HGA_GPU_WORKER_ENGINE_EXPLAIN_H_
#define HGA_GPU_WORKER_ENGINE_EXPLAIN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/kv/route_message.h"
#include "common/kv/summary.h"
#include "gpu_worker/engine/attend_plan.h"

namespace hga {

// A chunk of the routed range. Scores are logits, the highest of the KV head's query heads; masses are shares of the
// attention, their mean.
struct ExplainedChunk {
  uint32_t chunk = 0;
  uint32_t first_position = 0;
  uint32_t keys = 0;         // selected
  uint32_t coarse_rank = 0;  // 1: the best by the first level
  double coarse = 0;         // of the chunk as a whole
  double fine = 0;           // the highest of its units
  double exact = 0;          // the highest of its keys
  uint32_t best_key = 0;     // the position of that one
  double estimated = 0;      // mass by the fine scores
  double mass = 0;
};

struct ExplainedHead {
  uint32_t keys = 0;      // selected
  double keys_share = 0;  // of what the KV heads of the layer selected
  // Shares of the attention; they sum to 1.
  double always = 0, selected = 0, missed = 0;
  double estimated = 0;  // of what was selected
  std::vector<ExplainedChunk> chunks;  // ascending; of the routed range
};

struct Explanation {
  uint32_t position = 0;
  uint32_t sink_tokens = 0, window_start = 0;  // keys before and from here on are attended always
  uint32_t mean_budget_keys = 0;  // per KV head, of a layer on average
  uint32_t budget_keys = 0;       // the same of this layer, at most
  bool shared = false;            // the KV heads share it
  double least_share = 0;         // of the attention, that a key needs
  bool by_router = false;  // else everything was attended
  std::string method;
  std::vector<ExplainedHead> heads;  // [kv_heads]
};

struct ExplainedQuery {
  const KvGeometry* geometry = nullptr;
  const SummaryMethod* method = nullptr;
  uint32_t layer = 0;
  uint32_t position = 0;
  const bf16* query = nullptr;  // [query_heads][head_dim]
  uint32_t first_key = 0;       // of the routed range
  ChunkRange routed;
  const std::vector<HeadSelection>* selection = nullptr;  // [kv_heads]; nullptr: nothing
  const RouteBlock* route = nullptr;  // what was asked for, of one token; nullptr: nothing
};

// Plain loops over all keys up to the position. block: of any chunk up to the position's.
Explanation Explain(const ExplainedQuery& query, const BlockOfChunk& block);

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_EXPLAIN_H_
