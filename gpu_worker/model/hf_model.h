// Configuration and weights of a Hugging Face checkpoint: a folder with config.json and safetensors files.
#ifndef HGA_GPU_WORKER_MODEL_HF_MODEL_H_
#define HGA_GPU_WORKER_MODEL_HF_MODEL_H_

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/model/safetensors.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// Constant after ReadHfModel; thread-safe. Matrices are views into the mapped files; norms, biases and tile scales too
// where they are stored as F32.
struct HfModel {
  std::unique_ptr<SafetensorsCheckpoint> checkpoint;
  std::deque<std::vector<float>> converted;  // norms, biases and tile scales that are stored in fewer bits
  ModelWeights weights;
};

enum class HfRead {
  kRunnable,     // small tensors are converted and checked: scales positive, everything finite
  kHeadersOnly,  // no page of the tensors is touched: norms and biases stay in their type, tile scales are absent
};

// NOT_FOUND or INVALID_ARGUMENT names the file, the field or tensor, and what was expected.
absl::StatusOr<std::unique_ptr<HfModel>> ReadHfModel(const std::string& folder, HfRead read = HfRead::kRunnable);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_HF_MODEL_H_
