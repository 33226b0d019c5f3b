// Configuration and weights of a GGUF file.
#ifndef HGA_GPU_WORKER_MODEL_GGUF_MODEL_H_
#define HGA_GPU_WORKER_MODEL_GGUF_MODEL_H_

#include "absl/status/statusor.h"
#include "gpu_worker/model/gguf.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// The weights are views into `file`. NOT_FOUND or INVALID_ARGUMENT names the file, the key or tensor, and what was
// expected.
absl::StatusOr<ModelWeights> ReadGgufModel(const GgufFile& file);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_GGUF_MODEL_H_
