// What a model needs of a GPU's memory, and of the host's, at a given context.
#ifndef HGA_GPU_WORKER_MODEL_MEMORY_PLAN_H_
#define HGA_GPU_WORKER_MODEL_MEMORY_PLAN_H_

#include <cstdint>

#include "common/kv/geometry.h"
#include "common/kv/summary.h"
#include "gpu_worker/model/config.h"

namespace hga {

struct MemoryPlanOptions {
  uint64_t context_tokens = 0;  // at least 1
  uint32_t sequences = 4;       // computed at a time
  uint32_t batch_tokens = 256;  // rows of a prefill step
  uint32_t dense_tokens = 272;  // sink and window
  uint32_t routed_tokens = 0;   // most that a query attends of its history
  uint64_t weight_bytes = 0;
};

// All in bytes.
struct MemoryPlan {
  // Must fit into the device.
  uint64_t weights = 0;
  uint64_t runtime = 0;    // driver context and kernels, an allowance
  uint64_t workspace = 0;  // activations of one prefill step, logits
  uint64_t window = 0;     // sink, window and tail of every sequence, all layers
  uint64_t staging = 0;    // the routed tokens of every sequence in two layers: one is attended, one is fetched
  // Keeps the selected groups from one step to the next; what the device has left, up to all that one step selects, is
  // well spent on it.
  uint64_t routed_set = 0;
  // On the host, for one sequence of the whole context.
  uint64_t kv_store = 0;  // RAM or disk
  uint64_t router = 0;    // summaries, RAM

  uint64_t required() const { return weights + runtime + workspace + window + staging; }
};

MemoryPlan PlanMemory(const ModelConfig& config, const KvGeometry& geometry, const SummaryMethod& method,
                      const MemoryPlanOptions& options);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_MEMORY_PLAN_H_
