// The part of a layer after attention: down(silu(gate(x)) * up(x)), dense or by the experts that each token chooses.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_MLP_H_
#define HGA_GPU_WORKER_BACKEND_CPU_MLP_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/backend/cpu/linear.h"
#include "gpu_worker/backend/expert_choice.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// Work space that the layers of a backend share.
struct MlpScratch {
  std::vector<float> gate_up, activated;            // [rows][2 * width], [rows][width]
  std::vector<float> router, gathered, expert_out;  // [rows][experts], [rows][hidden] twice
};

// Step thread only.
class CpuMlp {
 public:
  // Experts do without GEMM: few rows of a batch go to any one of them, and a row's bits must not depend on how many.
  static absl::StatusOr<CpuMlp> Create(std::shared_ptr<LinearContext> context, const ModelConfig& config,
                                       const LayerWeights& weights);

  // x, out: [rows][hidden], not the same. A row's result does not depend on the other rows where there are experts.
  absl::Status Apply(const ModelConfig& config, const float* x, uint32_t rows, MlpScratch* scratch, float* out);

  size_t packed_bytes() const;

 private:
  struct Gated {
    Linear gate_up, down;
    uint32_t width = 0;
  };
  absl::StatusOr<Gated> CreateGated(const TensorView& gate, const TensorView& up, const TensorView& down,
                                    bool gemm) const;
  absl::Status ApplyGated(Gated* mlp, const float* x, uint32_t rows, MlpScratch* scratch, float* out);
  absl::Status ApplyExperts(const ModelConfig& config, const float* x, uint32_t rows, MlpScratch* scratch, float* out);

  std::shared_ptr<LinearContext> context_;
  Linear router_;              // with experts
  std::vector<Gated> gated_;   // the dense MLP, or the experts
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_MLP_H_
