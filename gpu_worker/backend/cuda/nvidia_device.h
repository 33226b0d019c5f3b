// The first CUDA device, by the CUDA runtime.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_NVIDIA_DEVICE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_NVIDIA_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/device.h"

namespace hga {

// UNAVAILABLE: no driver or no device; says which. FAILED_PRECONDITION: one older than sm_80.
absl::StatusOr<std::unique_ptr<Device>> OpenNvidiaDevice();

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_NVIDIA_DEVICE_H_
