// The kernels on the emulator.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_KERNELS_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_KERNELS_H_

#include "absl/status/status.h"
#include "gpu_worker/backend/cuda/kernels/kernel_list.h"

namespace hga {

// args: the kernel's struct. As emulator::RunGrid; names the kernel in errors.
absl::Status RunEmulatedKernel(KernelId kernel, const LaunchShape& shape, uint64_t seed, const void* args);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_KERNELS_H_
