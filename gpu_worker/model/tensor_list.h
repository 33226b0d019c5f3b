// All tensors of a model, whatever file they came from.
#ifndef HGA_GPU_WORKER_MODEL_TENSOR_LIST_H_
#define HGA_GPU_WORKER_MODEL_TENSOR_LIST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "gpu_worker/model/weights.h"

namespace hga {

struct NamedTensor {
  std::string name;  // ours, the same for every file format: "layers.3.q"
  TensorView view;
};

// Present tensors in a fixed order; a tied output is not listed a second time.
std::vector<NamedTensor> ListTensors(const ModelWeights& weights);
// Elements of all of them.
uint64_t CountParameters(const ModelWeights& weights);
// Bytes of all of them, tile scales included.
uint64_t CountWeightBytes(const ModelWeights& weights);

// Of one of them, tile scales included.
uint64_t TensorBytes(const TensorView& view);

// Of a kF8E4M3 matrix; 0 for other types.
size_t TileScaleCount(const TensorView& view);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TENSOR_LIST_H_
