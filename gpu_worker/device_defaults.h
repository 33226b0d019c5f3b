// What suits a GPU otherwise than a CPU, where the command line does not say: docs/decisions/0037-defaults-of-a-gpu.md.
#ifndef HGA_GPU_WORKER_DEVICE_DEFAULTS_H_
#define HGA_GPU_WORKER_DEVICE_DEFAULTS_H_

#include <cstdint>

#include "common/kv/geometry.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/options.h"

namespace hga {

// The engine's options on a GPU: longer steps of prompts, whose tokens attend everything as long as the K/V of a prompt
// takes no more than half of the arena. arena_blocks: slots of the store; 0: not known, then as many as it takes.
EngineOptions EngineOnDevice(const GpuWorkerOptions& o, const KvGeometry& geometry, uint64_t arena_blocks);

// BackendOptions::device_summary_bytes on a GPU.
uint64_t SummariesOnDevice(const GpuWorkerOptions& o);

}  // namespace hga

#endif  // HGA_GPU_WORKER_DEVICE_DEFAULTS_H_
