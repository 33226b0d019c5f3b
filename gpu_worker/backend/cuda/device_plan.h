// What the CUDA backend allocates on a device, added up from a model's shapes before anything is loaded.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_PLAN_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_PLAN_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/cuda_attention.h"
#include "gpu_worker/backend/cuda/route_mirror.h"
#include "gpu_worker/backend/cuda/workspace.h"
#include "gpu_worker/model/weights.h"

namespace hga {

struct CudaBackendOptions {
  uint32_t max_rows = 256;
  uint64_t device_memory_limit = 0;          // 0: what is free but for kDeviceReserve
  uint64_t device_tier_bytes = UINT64_MAX;   // UINT64_MAX: what the rest leaves of the limit
  uint64_t window_bytes = uint64_t{16} << 20;  // see CudaAttentionOptions
  uint32_t tier_unit_tokens = 4;             // see CudaAttentionOptions
  bool in_place = true;                      // see BackendOptions::device_in_place
  bool graphs = true;                        // see BackendOptions::device_graphs
  bool f8_gemm = true;                       // see BackendOptions::device_f8_gemm
  uint64_t summary_bytes = 0;                // see BackendOptions::device_summary_bytes
  std::string summary_method = "sketch";
  uint32_t part_states = 8192;
  uint64_t gemm_bytes = uint64_t{32} << 20;  // of cuBLASLt
};

// Left free where no limit is given: for what the driver takes later.
inline constexpr uint64_t kDeviceReserve = uint64_t{512} << 20;

// What the backend will allocate on the device, in bytes, known before anything is.
struct DevicePlan {
  uint64_t limit = 0;
  uint64_t weights = 0, workspace = 0, window = 0, tier = 0;
  RouteMirrorPlan mirror;
  uint64_t total() const { return weights + workspace + window + mirror.bytes + tier; }
};

// What of a device the plan depends on.
struct DeviceTraits {
  bool has_gemm = true, has_f8_gemm = true;
  uint64_t free_bytes = 0;
};

// Without a limit, and without a device tier. Of `weights` shapes and types count alone.
DevicePlan PlanWithoutTier(const ModelWeights& weights, const KvGeometry& geometry, const CudaBackendOptions& options,
                           const DeviceTraits& traits);
// RESOURCE_EXHAUSTED: it is beyond the limit; says what needs how much.
absl::StatusOr<DevicePlan> PlanDevice(const ModelWeights& weights, const KvGeometry& geometry,
                                      const CudaBackendOptions& options, const DeviceTraits& traits);
CudaAttentionOptions AttentionOptionsOf(const ModelConfig& config, const CudaBackendOptions& options,
                                        uint64_t tier_bytes);
WorkspaceShape WorkspaceShapeOf(const ModelWeights& weights, const CudaBackendOptions& options,
                                const DeviceTraits& traits);
// A table of the plan, one use a line.
std::string DescribePlan(const DevicePlan& plan);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_PLAN_H_
