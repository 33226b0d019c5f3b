// States of attention (see AttendFewArgs): merging parts, the result, the log-sum-exp.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_STATES_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_STATES_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"

namespace hga {

// exp(m - top), 0 for a state that has attended nothing.
HGA_DEVICE float StateShare(float m, float top) { return m == -INFINITY ? 0.0f : expf(m - top); }

// Elements of a head that a thread merges at a time.
inline constexpr uint32_t kMergeOwned = 4;

// Element threadIdx.x, and so on, of a head from `begin` on: the state's and, in order, the parts'.
HGA_DEVICE void MergeElements(const MergePartsArgs& a, const MergeItem& item, uint32_t begin, float top, float own) {
  const uint32_t first_part = item.first_part + blockIdx.x;
  float* o = a.o + size_t{item.first_state + blockIdx.x} * a.head_dim;
  float sums[kMergeOwned];
  HGA_UNROLL
  for (uint32_t n = 0; n < kMergeOwned; ++n) {
    const uint32_t at = begin + threadIdx.x + n * blockDim.x;
    sums[n] = at < a.head_dim ? o[at] * own : 0.0f;
  }
  for (uint32_t first = 0; first < item.parts; first += kWarp) {
    const uint32_t mine = first + Lane(), count = Least(kWarp, item.parts - first);
    const float share = mine < item.parts ? StateShare(a.m[first_part + mine * item.queries], top) : 0.0f;
    HGA_UNROLL_SOME
    for (uint32_t i = 0; i < count; ++i) {
      const float weight = __shfl_sync(kFullWarp, share, i);
      const float* part = a.o + size_t{first_part + (first + i) * item.queries} * a.head_dim;
      HGA_UNROLL
      for (uint32_t n = 0; n < kMergeOwned; ++n) {
        const uint32_t at = begin + threadIdx.x + n * blockDim.x;
        if (at < a.head_dim) sums[n] += part[at] * weight;
      }
    }
  }
  HGA_UNROLL
  for (uint32_t n = 0; n < kMergeOwned; ++n) {
    const uint32_t at = begin + threadIdx.x + n * blockDim.x;
    if (at < a.head_dim) o[at] = sums[n];
  }
}

// Each lane reads m and l of some parts, so that a warp waits once and not part by part.
HGA_DEVICE void Run(const MergePartsArgs& a) {
  const MergeItem item = a.items[blockIdx.y];
  if (blockIdx.x >= item.queries) return;
  const uint32_t state = item.first_state + blockIdx.x, first_part = item.first_part + blockIdx.x;
  const float old_m = a.m[state], old_l = a.l[state];
  float top = old_m;
  for (uint32_t p = Lane(); p < item.parts; p += kWarp) top = fmaxf(top, a.m[first_part + p * item.queries]);
  top = WarpMax(top);
  const float own = StateShare(old_m, top);
  float sum = 0;
  for (uint32_t p = Lane(); p < item.parts; p += kWarp) {
    const uint32_t part = first_part + p * item.queries;
    sum += a.l[part] * StateShare(a.m[part], top);
  }
  sum = WarpSum(sum) + old_l * own;
  for (uint32_t begin = 0; begin < a.head_dim; begin += kMergeOwned * blockDim.x) {
    MergeElements(a, item, begin, top, own);
  }
  __syncthreads();  // everybody has read m and l
  if (threadIdx.x == 0) {
    a.m[state] = top;
    a.l[state] = sum;
  }
}

HGA_DEVICE void Run(const FinishAttentionArgs& a) {
  const float l = a.l[blockIdx.x];
  for (uint32_t i = threadIdx.x; i < a.head_dim; i += blockDim.x) {
    const size_t at = size_t{blockIdx.x} * a.head_dim + i;
    const float y = l > 0 ? a.o[at] / l : 0.0f;
    if (a.out != nullptr) a.out[at] = y;
    if (a.out_bf16 != nullptr) a.out_bf16[at] = Narrow(y);
  }
}

HGA_DEVICE void Run(const LogSumExpArgs& a) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < a.count; i += gridDim.x * blockDim.x) {
    a.out[i] = a.l[i] > 0 ? a.m[i] + logf(a.l[i]) : -INFINITY;
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_STATES_H_
