// Which experts a token goes to, tokens put together by expert, and the experts' outputs put together again.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_EXPERTS_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_EXPERTS_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"

namespace hga {

// The best expert of those that `taken` (a bit for each of this lane's) does not have; the same in all lanes.
HGA_DEVICE uint32_t BestExpert(const float* logits, uint32_t experts, uint32_t taken) {
  float best = -INFINITY;
  uint32_t which = UINT32_MAX;
  for (uint32_t i = 0, e = Lane(); e < experts; ++i, e += kWarp) {
    if ((taken >> i & 1) == 0 && (logits[e] > best || which == UINT32_MAX)) {
      best = logits[e];
      which = e;
    }
  }
  HGA_UNROLL
  for (uint32_t step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kFullWarp, best, step);
    const uint32_t other_which = __shfl_xor_sync(kFullWarp, which, step);
    const bool better = other > best || (other == best && other_which < which);
    if (other_which != UINT32_MAX && (which == UINT32_MAX || better)) {
      best = other;
      which = other_which;
    }
  }
  return which;
}

// experts: at most 1024, a bit of 32 for each that a lane has.
HGA_DEVICE void Run(const ChooseExpertsArgs& a) {
  const uint32_t row = blockIdx.x * (blockDim.x / kWarp) + Warp();
  if (row >= a.rows) return;
  const float* logits = a.logits + size_t{row} * a.experts;
  float top = -INFINITY;
  for (uint32_t e = Lane(); e < a.experts; e += kWarp) top = fmaxf(top, logits[e]);
  top = WarpMax(top);
  float sum = 0;
  for (uint32_t e = Lane(); e < a.experts; e += kWarp) sum += expf(logits[e] - top);
  sum = WarpSum(sum);
  uint32_t taken = 0;
  float chosen_sum = 0;
  for (uint32_t j = 0; j < a.per_token; ++j) {
    const uint32_t e = BestExpert(logits, a.experts, taken);
    if (e % kWarp == Lane()) taken |= 1u << (e / kWarp);
    const float weight = expf(logits[e] - top);
    chosen_sum += weight;
    if (Lane() == 0) {
      a.chosen[size_t{row} * a.per_token + j] = e;
      a.weights[size_t{row} * a.per_token + j] = weight;
    }
  }
  __syncwarp();
  const float norm = a.normalize ? chosen_sum : sum;
  for (uint32_t j = Lane(); j < a.per_token; j += kWarp) a.weights[size_t{row} * a.per_token + j] /= norm;
}

// Pairs of one expert come in any order: no row's product depends on where it stands. Shared memory: a number for each
// expert.
HGA_DEVICE void Run(const GroupExpertsArgs& a) {
  uint32_t* first = reinterpret_cast<uint32_t*>(SharedMemory());
  for (uint32_t e = threadIdx.x; e < a.experts; e += blockDim.x) first[e] = 0;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < a.pairs; i += blockDim.x) atomicAdd(&first[a.chosen[i]], 1u);
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t at = 0, tiles = 0;
    for (uint32_t e = 0; e < a.experts; ++e) {
      const uint32_t count = first[e];
      for (uint32_t i = 0; i < count; i += kGemmTileRows) {
        a.tiles[tiles++] = ExpertTile{e, at + i, Least(kGemmTileRows, count - i)};
      }
      first[e] = at;
      at += count;
    }
    *a.tile_count = tiles;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < a.pairs; i += blockDim.x) a.order[atomicAdd(&first[a.chosen[i]], 1u)] = i;
}

HGA_DEVICE void Run(const CombineExpertsArgs& a) {
  const uint32_t row = blockIdx.y;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < a.width; i += gridDim.x * blockDim.x) {
    float sum = 0;
    for (uint32_t j = 0; j < a.per_token; ++j) {
      const size_t pair = size_t{row} * a.per_token + j;
      sum += a.weights[pair] * a.y[pair * a.width + i];
    }
    a.x[size_t{row} * a.width + i] += sum;
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_EXPERTS_H_
