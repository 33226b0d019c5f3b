#include "gpu_worker/backend/testing_backend.h"

#include <utility>

#include "common/base/status.h"
#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/cuda/simulated_device.h"

namespace hga {
namespace {

// SmolLM2 as bf16 fits, and tests that run side by side on one device.
constexpr uint64_t kDeviceBytes = uint64_t{1} << 30;

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateTestBackend(const std::string& kind, const ModelWeights& weights,
                                                           const KvGeometry& geometry, const BackendOptions& options) {
  const bool tight = kind == "emulated_tight";
  const bool mapped = kind == "emulated_mapped" || kind == "emulated_in_place";
  if (!tight && !mapped && kind != "emulated") {
    BackendOptions limited = options;
    if (kind == "cuda" && limited.device_memory_limit == 0) limited.device_memory_limit = kDeviceBytes;
    return CreateBackend(kind, weights, geometry, limited);
  }
  SimulatedDeviceOptions device;
  device.bytes = kDeviceBytes;
  device.maps_all_memory = mapped;
  CudaBackendOptions cuda;
  cuda.max_rows = options.max_rows;
  cuda.gemm_bytes = 1 << 20;
  cuda.device_memory_limit = device.bytes;
  cuda.device_tier_bytes = 1 << 20;
  cuda.summary_bytes = options.device_summary_bytes;
  cuda.summary_method = options.summary_method;
  cuda.window_bytes = 1 << 20;
  cuda.in_place = kind == "emulated_in_place";
  if (tight) {
    device.seed = static_cast<uint64_t>(options.threads);
    device.early_copies = true;
    device.has_gemm = false;
    cuda.tier_unit_tokens = 4;
    cuda.window_bytes = 64 << 10;
    cuda.device_tier_bytes = 16 << 10;
    cuda.part_states = 16;
  }
  HGA_ASSIGN_OR_RETURN(auto backend, CudaBackend::Create(std::make_unique<SimulatedDevice>(device), weights, geometry,
                                                         cuda));
  return std::unique_ptr<Backend>(std::move(backend));
}

}  // namespace hga
