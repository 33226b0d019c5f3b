// The kernels as CUDA launches.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_NVIDIA_KERNELS_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_NVIDIA_KERNELS_H_

#include "gpu_worker/backend/cuda/kernels/kernel_list.h"

namespace hga {

// All return a cudaError_t; the stream is a cudaStream_t. Declared without CUDA's headers.

// Once for the current device: lets kernels have as much shared memory as they ask for.
int PrepareNvidiaKernels();
// args: the kernel's struct.
int LaunchNvidiaKernel(KernelId kernel, const LaunchShape& shape, void* stream, const void* args);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_NVIDIA_KERNELS_H_
