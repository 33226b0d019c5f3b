// The part of a layer after attention, on the device: dense, or by the experts that each token chooses.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_CUDA_MLP_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_CUDA_MLP_H_

#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/cuda_linear.h"
#include "gpu_worker/backend/cuda/workspace.h"

namespace hga {

// Step thread only.
class CudaMlp {
 public:
  static absl::StatusOr<CudaMlp> Create(WeightLoader* loader, const ModelConfig& config, const LayerWeights& weights);

  // w.x += MLP of the rows in w.normed (always with experts, else where rows are few) and w.normed_bf16.
  absl::Status Apply(Device* device, const ModelConfig& config, uint32_t rows, const Workspace& w) const;

 private:
  absl::Status ApplyDense(Device* device, const ModelConfig& config, uint32_t rows, const Workspace& w) const;
  absl::Status ApplyExperts(Device* device, const ModelConfig& config, uint32_t rows, const Workspace& w) const;

  CudaLinear gate_up_, down_, router_;
  CudaExperts expert_gate_up_, expert_down_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_CUDA_MLP_H_
