// States of attention (see AttendFewArgs): merging parts, the result, the log-sum-exp.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_STATES_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_STATES_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"

namespace hga {

// exp(m - top), 0 for a state that has attended nothing.
HGA_DEVICE float StateShare(float m, float top) { return m == -INFINITY ? 0.0f : expf(m - top); }

HGA_DEVICE void Run(const MergePartsArgs& a) {
  const MergeItem item = a.items[blockIdx.y];
  if (blockIdx.x >= item.queries) return;
  const uint32_t state = item.first_state + blockIdx.x;
  float top = a.m[state];
  for (uint32_t p = 0; p < item.parts; ++p) top = fmaxf(top, a.m[item.first_part + p * item.queries + blockIdx.x]);
  const float own = StateShare(a.m[state], top);
  float sum = a.l[state] * own;
  for (uint32_t p = 0; p < item.parts; ++p) {
    const uint32_t part = item.first_part + p * item.queries + blockIdx.x;
    sum += a.l[part] * StateShare(a.m[part], top);
  }
  for (uint32_t i = threadIdx.x; i < a.head_dim; i += blockDim.x) {
    float o = a.o[size_t{state} * a.head_dim + i] * own;
    for (uint32_t p = 0; p < item.parts; ++p) {
      const uint32_t part = item.first_part + p * item.queries + blockIdx.x;
      o += a.o[size_t{part} * a.head_dim + i] * StateShare(a.m[part], top);
    }
    a.o[size_t{state} * a.head_dim + i] = o;
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
