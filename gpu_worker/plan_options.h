// From the engine's settings to what the memory plan asks for.
#ifndef HGA_GPU_WORKER_PLAN_OPTIONS_H_
#define HGA_GPU_WORKER_PLAN_OPTIONS_H_

#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/model/memory_plan.h"

namespace hga {

MemoryPlanOptions PlanOptions(const EngineOptions& engine, uint64_t context_tokens, uint64_t weight_bytes);

}  // namespace hga

#endif  // HGA_GPU_WORKER_PLAN_OPTIONS_H_
