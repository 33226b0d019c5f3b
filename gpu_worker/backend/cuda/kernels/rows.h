// Kernels over rows of activations: norm, sum, SwiGLU.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROWS_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROWS_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"

namespace hga {

// Shared memory: a float for each warp.
HGA_DEVICE void Run(const RmsNormArgs& a) {
  const uint32_t row = blockIdx.x;
  const float* x = a.x + size_t{a.take == nullptr ? row : a.take[row]} * a.width;
  float squares = 0;
  for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x) squares += x[i] * x[i];
  squares = BlockSum(squares, reinterpret_cast<float*>(SharedMemory()));
  const float factor = 1 / sqrtf(squares / a.width + a.epsilon);
  for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x) {
    const float y = x[i] * factor * a.scale[i];
    if (a.out != nullptr) a.out[size_t{row} * a.width + i] = y;
    if (a.out_bf16 != nullptr) a.out_bf16[size_t{row} * a.width + i] = Narrow(y);
  }
}

HGA_DEVICE void Run(const AddArgs& a) {
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.count;
       i += uint64_t{gridDim.x} * blockDim.x) {
    a.x[i] += a.y[i];
  }
}

HGA_DEVICE void Run(const SwiGluArgs& a) {
  const uint64_t count = uint64_t{a.rows} * a.width;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += uint64_t{gridDim.x} * blockDim.x) {
    const uint64_t at = i / a.width * 2 * a.width + i % a.width;
    const float gate = a.gate_up[at];
    const float y = gate / (1 + expf(-gate)) * a.gate_up[at + a.width];
    if (a.out != nullptr) a.out[i] = y;
    if (a.out_bf16 != nullptr) a.out_bf16[i] = Narrow(y);
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROWS_H_
