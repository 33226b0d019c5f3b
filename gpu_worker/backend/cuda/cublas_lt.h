// Dense GEMM by cuBLASLt, found when the program runs: the library is ten times as large as everything else together.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_CUBLAS_LT_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_CUBLAS_LT_H_

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/device.h"

namespace hga {

// One thread.
class CublasLt {
 public:
  // NOT_FOUND: no such library here; INTERNAL: it does not start.
  static absl::StatusOr<std::unique_ptr<CublasLt>> Load();
  ~CublasLt();

  void SetWorkspace(void* memory, size_t bytes);
  // INTERNAL: no algorithm for these sizes, or it failed.
  absl::Status Gemm(cudaStream_t stream, const GemmCall& call);
  absl::Status F8Gemm(cudaStream_t stream, const F8GemmCall& call);

 private:
  struct Functions {
    decltype(&cublasLtCreate) Create;
    decltype(&cublasLtDestroy) Destroy;
    decltype(&cublasLtMatmulDescCreate) DescCreate;
    decltype(&cublasLtMatmulDescSetAttribute) DescSet;
    decltype(&cublasLtMatmulDescDestroy) DescDestroy;
    decltype(&cublasLtMatrixLayoutCreate) LayoutCreate;
    decltype(&cublasLtMatrixLayoutDestroy) LayoutDestroy;
    decltype(&cublasLtMatmulPreferenceCreate) PreferenceCreate;
    decltype(&cublasLtMatmulPreferenceSetAttribute) PreferenceSet;
    decltype(&cublasLtMatmulPreferenceDestroy) PreferenceDestroy;
    decltype(&cublasLtMatmulAlgoGetHeuristic) Heuristic;
    decltype(&cublasLtMatmul) Matmul;
  };
  // How one size is multiplied; found once.
  struct Plan {
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
    cublasLtMatmulAlgo_t algorithm;
  };
  struct Key {
    bool f8;
    uint32_t rows, outputs, cols;
    size_t y_stride;
    bool operator<(const Key& o) const {
      return std::tie(f8, rows, outputs, cols, y_stride) < std::tie(o.f8, o.rows, o.outputs, o.cols, o.y_stride);
    }
  };

  struct Scales {
    const float *w = nullptr, *x = nullptr;
  };

  CublasLt() = default;
  absl::Status Find(void* library);
  absl::StatusOr<const Plan*> PlanFor(const Key& key, const Scales& scales);
  absl::Status MakePlan(const Key& key, const Scales& scales, Plan* plan);
  absl::Status SetBlockScales(const Plan& plan);
  absl::Status SetScales(const Plan& plan, const Scales& scales);
  absl::Status Multiply(cudaStream_t stream, const Plan& plan, const void* w, const void* x, float* y);
  absl::Status ChooseAlgorithm(Plan* plan);
  void DropPlans();

  Functions call_{};
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
  std::map<Key, Plan> plans_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_CUBLAS_LT_H_
