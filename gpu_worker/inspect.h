// `gpu_worker --inspect`: what a model is and what it needs, from its headers alone.
#ifndef HGA_GPU_WORKER_INSPECT_H_
#define HGA_GPU_WORKER_INSPECT_H_

#include <cstdint>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "gpu_worker/engine/engine_options.h"

namespace hga {

struct InspectOptions {
  std::string path;             // GGUF file or folder
  uint64_t context_tokens = 0;  // 0: the model's own
  uint64_t device_memory = 0;   // bytes; 0: not known, so nothing is said about fitting
  std::string json;             // empty: a table; "-": JSON to `out`; else JSON into this file
  uint64_t device_summaries = 0;  // bytes, as --device_summaries
};

// Writes a table or one line of JSON. Errors are those of loading.
absl::Status Inspect(const InspectOptions& options, const EngineOptions& engine, std::ostream& out);

}  // namespace hga

#endif  // HGA_GPU_WORKER_INSPECT_H_
