// Weights that are infinite or not a number, found when a model is loaded.
#ifndef HGA_GPU_WORKER_MODEL_CHECK_FINITE_H_
#define HGA_GPU_WORKER_MODEL_CHECK_FINITE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "gpu_worker/model/tensor_list.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// Looks at some rows of every tensor, and at all scales of FP8 tiles. INVALID_ARGUMENT names the tensor and the row.
// Looking at every row would read the whole file, which takes minutes from a disk. Damaged files and bad conversions
// show in whole tensors as a rule; what the sample misses shows in the logits, which the engine checks at each token.
absl::Status CheckFinite(const ModelWeights& weights);

// The same of one tensor: `rows` of them, spread from the first to the last.
absl::Status CheckFinite(const NamedTensor& tensor, uint32_t rows);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_CHECK_FINITE_H_
