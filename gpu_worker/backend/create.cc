#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cpu/cpu_backend.h"
#include "gpu_worker/backend/reference/reference_backend.h"
#ifdef HGA_CUDA
#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/cuda/nvidia_device.h"
#endif

namespace hga {
namespace {

#ifdef HGA_CUDA
absl::StatusOr<std::unique_ptr<Backend>> CreateCuda(const ModelWeights& weights, const KvGeometry& geometry,
                                                    const BackendOptions& options) {
  auto device = OpenNvidiaDevice();
  if (absl::IsUnavailable(device.status())) {
    LogWarning("no device: using cpu", {{"error", std::string(device.status().message())}});
    return CpuBackend::Create(weights, geometry, options);
  }
  HGA_RETURN_IF_ERROR(device.status());
  CudaBackendOptions cuda;
  cuda.max_rows = options.max_rows;
  cuda.device_memory_limit = options.device_memory_limit;
  cuda.device_tier_bytes = options.device_tier_bytes;
  cuda.summary_bytes = options.device_summary_bytes;
  cuda.summary_method = options.summary_method;
  cuda.in_place = options.device_in_place;
  cuda.graphs = options.device_graphs;
  cuda.f8_gemm = options.device_f8_gemm;
  HGA_ASSIGN_OR_RETURN(auto backend, CudaBackend::Create(*std::move(device), weights, geometry, cuda));
  return std::unique_ptr<Backend>(std::move(backend));
}
#else
absl::StatusOr<std::unique_ptr<Backend>> CreateCuda(const ModelWeights&, const KvGeometry&, const BackendOptions&) {
  return absl::FailedPreconditionError("built without the cuda backend: bazel build --config=cuda has it");
}
#endif

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const std::string& kind, const ModelWeights& weights,
                                                       const KvGeometry& geometry, const BackendOptions& options) {
  if (kind == "reference") return std::make_unique<ReferenceBackend>(weights, geometry, options);
  if (kind == "cpu") return CpuBackend::Create(weights, geometry, options);
  if (kind == "cuda") return CreateCuda(weights, geometry, options);
  return absl::InvalidArgumentError(absl::StrCat("no backend '", kind, "'; there are: cpu, cuda, reference"));
}

}  // namespace hga
