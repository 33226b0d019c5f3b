// Finds out by trying whether a device multiplies FP8 with block scales, and reads the scales where we put them.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_F8_PROBE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_F8_PROBE_H_

#include "absl/status/status.h"
#include "gpu_worker/backend/cuda/device.h"

namespace hga {

inline constexpr uint64_t kF8ProbeBytes = uint64_t{320} << 10;

// A small product with another scale for each tile, on device memory of kF8ProbeBytes. Any error: not to be used.
absl::Status ProbeF8Gemm(Device* device, uint8_t* memory);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_F8_PROBE_H_
