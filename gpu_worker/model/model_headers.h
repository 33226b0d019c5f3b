// What a model file tells about itself without its weights being read.
#ifndef HGA_GPU_WORKER_MODEL_MODEL_HEADERS_H_
#define HGA_GPU_WORKER_MODEL_MODEL_HEADERS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gpu_worker/model/weights.h"

namespace hga {

struct TypeShare {
  uint64_t tensors = 0;
  uint64_t parameters = 0;
  uint64_t bytes = 0;  // as loaded, tile scales included
};

struct ModelHeaders {
  std::shared_ptr<const void> files;  // keeps mapped what the weights are views into
  ModelWeights weights;               // not to be run: norms may be of another type, tile scales are absent
  std::string format;                 // "GGUF", "safetensors"
  uint64_t file_count = 0;
  uint64_t file_bytes = 0;

  // By type name: "BF16".
  std::map<std::string, TypeShare> Types() const;
};

// path: as for LoadModel. Checks names, types and shapes as loading does.
absl::StatusOr<ModelHeaders> ReadModelHeaders(const std::string& path);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_MODEL_HEADERS_H_
