// The best tokens of a row of logits.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_TOP_LOGITS_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_TOP_LOGITS_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/glibc_exp.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {

HGA_DEVICE bool IsBetter(const TokenLogit& a, const TokenLogit& b) {
  if (a.id == kNoToken || b.id == kNoToken) return a.id != kNoToken;
  const bool a_finite = (__float_as_uint(a.logit) & 0x7f800000u) != 0x7f800000u;
  const bool b_finite = (__float_as_uint(b.logit) & 0x7f800000u) != 0x7f800000u;
  if (a_finite != b_finite) return b_finite;
  return a_finite && a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

HGA_DEVICE TokenLogit BestOfWarp(TokenLogit best) {
  HGA_UNROLL
  for (uint32_t step = kWarp / 2; step > 0; step /= 2) {
    TokenLogit other;
    other.id = __shfl_xor_sync(kFullWarp, best.id, step);
    other.logit = __shfl_xor_sync(kFullWarp, best.logit, step);
    if (IsBetter(other, best)) best = other;
  }
  return best;
}

// As often as tokens are kept, the best of what is left is taken. Shared memory: the slice, and one for each warp.
HGA_DEVICE void Run(const TopLogitsArgs& a) {
  TokenLogit* slice = reinterpret_cast<TokenLogit*>(SharedMemory());
  TokenLogit* of_warps = slice + kTopSlice;
  const uint32_t first = blockIdx.x * kTopSlice, size = Least(kTopSlice, a.count - first);
  const size_t row = size_t{blockIdx.y} * a.count;
  for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
    if (a.logits == nullptr) {
      slice[i] = a.candidates[row + first + i];
    } else {
      slice[i].id = first + i;
      slice[i].logit = a.logits[row + first + i];
    }
  }
  TokenLogit* out = a.out + (size_t{blockIdx.y} * gridDim.x + blockIdx.x) * a.keep;
  for (uint32_t taken = 0; taken < a.keep; ++taken) {  // each thread has only ever read and written its own
    TokenLogit best;
    best.id = kNoToken;
    best.logit = 0;
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
      if (IsBetter(slice[i], best)) best = slice[i];
    }
    best = BestOfWarp(best);
    if (Lane() == 0) of_warps[Warp()] = best;
    __syncthreads();
    for (uint32_t w = 0; w < blockDim.x / kWarp; ++w) {
      if (IsBetter(of_warps[w], best)) best = of_warps[w];
    }
    if (threadIdx.x == 0) out[taken] = best;
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
      if (slice[i].id == best.id) slice[i].id = kNoToken;
    }
    __syncthreads();
  }
}

HGA_DEVICE void Run(const PenalizeArgs& a) {
  const float penalty = a.penalties[blockIdx.y];
  if (penalty == 1) return;
  const uint64_t* seen = a.seen + size_t{blockIdx.y} * ((a.count + 63) / 64);
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < a.count; i += gridDim.x * blockDim.x) {
    if ((seen[i / 64] >> (i % 64) & 1) == 0) continue;
    float& logit = a.logits[size_t{blockIdx.y} * a.count + i];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

// Shared memory: a sum for each warp.
HGA_DEVICE void Run(const LogitMassArgs& a) {
  uint64_t* of_warps = reinterpret_cast<uint64_t*>(SharedMemory());
  const uint32_t first = blockIdx.x * kTopSlice, size = Least(kTopSlice, a.count - first);
  const float* logits = a.logits + size_t{blockIdx.y} * a.count + first;
  const float largest = a.top[size_t{blockIdx.y} * a.keep].logit, temperature = a.temperatures[blockIdx.y];
  uint64_t sum = 0;
  for (uint32_t i = threadIdx.x; temperature > 0 && i < size; i += blockDim.x) {
    sum += static_cast<uint64_t>(fma(double{GlibcExp((logits[i] - largest) / temperature)}, kLogitMass, 0.5));
  }
  for (uint32_t step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
  if (Lane() == 0) of_warps[Warp()] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (uint32_t w = 1; w < blockDim.x / kWarp; ++w) sum += of_warps[w];
  a.masses[size_t{blockIdx.y} * gridDim.x + blockIdx.x] = sum;
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_TOP_LOGITS_H_
