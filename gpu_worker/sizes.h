// `gpu_worker --sizes`: what well-known models need at several contexts, from their shapes alone.
#ifndef HGA_GPU_WORKER_SIZES_H_
#define HGA_GPU_WORKER_SIZES_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/model/weights.h"

namespace hga {

struct KnownModel {
  ModelConfig config;
  bool tied_output = false;  // the output matrix is the embedding
  bool fp8 = false;          // projections and experts in FP8 with 128x128 scales, the rest in BF16; else all in BF16
  std::vector<uint64_t> contexts;

  uint64_t parameters() const;
  ModelWeights shapes() const;
};

const std::vector<KnownModel>& KnownModels();

// A table in Markdown, as it stands in README.md. Errors: `engine` names an unknown summary method.
absl::Status WriteSizes(const EngineOptions& engine, uint64_t device_summaries, std::ostream& out);

}  // namespace hga

#endif  // HGA_GPU_WORKER_SIZES_H_
