// What a row did not attend, as one key more: the values that it did attend are added up for their mean.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_RESIDUAL_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_RESIDUAL_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"
#include "gpu_worker/backend/cuda/kernels/states.h"

namespace hga {

// Elements of a head that a lane adds up.
inline constexpr uint32_t kSumOwned = kFewHeadDim / kWarp;

// Warps share out the runs. Shared memory: for each warp a head of floats, and one float.
HGA_DEVICE void Run(const SumValuesArgs& a) {
  const AttendItem item = a.items[blockIdx.x];
  if (blockIdx.y >= item.queries) return;
  const uint32_t row = item.first_row + blockIdx.y, position = a.positions[row], d = a.head_dim;
  const uint32_t warps = blockDim.x / kWarp;
  float sums[kSumOwned] = {}, count = 0;
  for (uint32_t i = Warp(); i < item.runs; i += warps) {
    const DeviceRun run = a.runs[item.first_run + i];
    if (run.first_row > blockIdx.y) continue;
    for (uint32_t j = 0; j < run.tokens && run.position + j <= position; ++j) {
      HGA_UNROLL
      for (uint32_t n = 0; n < kSumOwned; ++n) {
        const uint32_t at = Lane() + n * kWarp;
        if (at < d) sums[n] += Widen(run.v[size_t{j} * d + at]);
      }
      ++count;
    }
  }
  float* shared = reinterpret_cast<float*>(SharedMemory());
  float* counts = shared + warps * d;
  HGA_UNROLL
  for (uint32_t n = 0; n < kSumOwned; ++n) {
    const uint32_t at = Lane() + n * kWarp;
    if (at < d) shared[Warp() * d + at] = sums[n];
  }
  if (Lane() == 0) counts[Warp()] = count;
  __syncthreads();
  const size_t to = size_t{row} * a.kv_heads + item.kv_head;
  for (uint32_t at = threadIdx.x; at < d; at += blockDim.x) {
    float sum = a.sums[to * d + at];
    for (uint32_t w = 0; w < warps; ++w) sum += shared[w * d + at];
    a.sums[to * d + at] = sum;
  }
  if (threadIdx.x != 0) return;
  for (uint32_t w = 0; w < warps; ++w) a.counts[to] += counts[w];
}

HGA_DEVICE void Run(const AddResidualArgs& a) {
  const uint32_t state = blockIdx.x, kv_heads = a.query_heads / a.per_head;
  const uint32_t sum = state / a.query_heads * kv_heads + state % a.query_heads / a.per_head;
  const float missed = a.missed[state], count = a.counts[sum];
  if (count == 0 || !(missed > -INFINITY)) return;
  const float old_m = a.m[state], top = fmaxf(old_m, missed), keep = StateShare(old_m, top);
  const float weight = expf(missed - top);
  for (uint32_t i = threadIdx.x; i < a.head_dim; i += blockDim.x) {
    float* o = a.o + size_t{state} * a.head_dim + i;
    *o = *o * keep + a.sums[size_t{sum} * a.head_dim + i] * (weight / count);
  }
  __syncthreads();  // everybody has read m
  if (threadIdx.x == 0) {
    a.m[state] = top;
    a.l[state] = a.l[state] * keep + weight;
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_RESIDUAL_H_
