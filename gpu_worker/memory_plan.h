// What a model needs of a GPU's memory, and of the host's, at a given context: the CUDA backend's own plan, and what
// the daemons beside it keep.
#ifndef HGA_GPU_WORKER_MEMORY_PLAN_H_
#define HGA_GPU_WORKER_MEMORY_PLAN_H_

#include <cstdint>

#include "common/kv/summary.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// All in bytes.
struct MemoryPlan {
  // Must fit into the device.
  uint64_t weights = 0;    // the embedding is on the host
  uint64_t workspace = 0;  // activations of one prefill step, logits
  uint64_t window = 0;     // K/V on its way
  uint64_t summaries = 0;  // of the router's, if the device selects
  uint64_t runtime = 0;    // driver context and kernels, an allowance
  // K/V that a step of as many sequences as are computed at a time attends: what a device tier is well spent on, twice
  // if there is room.
  uint64_t step_kv = 0;
  // On the host, for one sequence of the whole context.
  uint64_t kv_store = 0;  // RAM or disk
  uint64_t router = 0;    // summaries, RAM

  uint64_t required() const { return weights + workspace + window + summaries + runtime; }
};

// Of `weights` shapes and types count alone. context_tokens: at least 1. device_summaries: as --device_summaries.
MemoryPlan PlanMemory(const ModelWeights& weights, const SummaryMethod& method, const EngineOptions& engine,
                      uint64_t context_tokens, uint64_t device_summaries);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MEMORY_PLAN_H_
