// Activations as FP8, for GEMM with block scales.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_QUANTIZE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_QUANTIZE_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"

namespace hga {

// Largest finite E4M3.
inline constexpr float kF8Most = 448;

HGA_DEVICE void Run(const QuantizeRowsArgs& a) {
  const uint32_t groups = a.cols / kF8Group, at = blockIdx.x * (blockDim.x / kWarp) + Warp();
  if (at >= a.padded * groups) return;
  const uint32_t row = at / groups, group = at % groups;
  const size_t first = size_t{row} * a.cols + group * kF8Group;
  constexpr uint32_t kOwned = kF8Group / kWarp;
  float values[kOwned] = {}, most = 0;
  HGA_UNROLL
  for (uint32_t i = 0; i < kOwned; ++i) {
    if (row < a.rows) values[i] = Widen(a.x[first + Lane() + i * kWarp]);
    most = fmaxf(most, fabsf(values[i]));
  }
  most = WarpMax(most);
  const float scale = most > 0 ? most / kF8Most : 1.0f;
  HGA_UNROLL
  for (uint32_t i = 0; i < kOwned; ++i) a.out[first + Lane() + i * kWarp] = NarrowF8(values[i] / scale);
  if (Lane() == 0) a.scales[size_t{group} * a.padded + row] = scale;
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_QUANTIZE_H_
