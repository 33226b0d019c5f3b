#include "gpu_worker/backend/cuda/nvidia_kernels.h"

#include <cuda_runtime.h>

#include "gpu_worker/backend/cuda/kernels/all.h"

namespace hga {
namespace {

template <typename Args>
__global__ void __launch_bounds__(Residence<Args>::threads, Residence<Args>::blocks)
    Kernel(const __grid_constant__ Args args) {
  Run(args);
}

template <typename Args>
cudaError_t LaunchOne(const LaunchShape& shape, cudaStream_t stream, const void* args) {
  Kernel<Args><<<dim3(shape.grid_x, shape.grid_y), shape.block, shape.shared_bytes, stream>>>(
      *static_cast<const Args*>(args));
  return cudaGetLastError();
}

}  // namespace

int PrepareNvidiaKernels() {
  return cudaFuncSetAttribute(Kernel<AttendManyArgs>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              ManySharedBytes(kManyHeadDim));
}

int LaunchNvidiaKernel(KernelId kernel, const LaunchShape& shape, void* stream, const void* args) {
  switch (kernel) {
#define HGA_LAUNCH(name) \
  case KernelId::k##name: return LaunchOne<name##Args>(shape, static_cast<cudaStream_t>(stream), args);
    HGA_CUDA_KERNELS(HGA_LAUNCH)
#undef HGA_LAUNCH
    case KernelId::kCount: break;
  }
  return cudaErrorInvalidDeviceFunction;
}

}  // namespace hga
