// From a row's projections to queries, keys and values.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_HEADS_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_HEADS_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/int8.h"

namespace hga {

// Turns the leading rope_dims of a head that lies in shared memory; the warp has written it.
HGA_DEVICE void TurnHead(const FinishHeadsArgs& a, uint32_t row, float* head) {
  const uint32_t pairs = a.rope_dims / 2;
  const float* cosines = a.cos_sin + size_t{row} * 2 * pairs;
  const float* sines = cosines + pairs;
  for (uint32_t i = Lane(); i < pairs; i += kWarp) {
    const uint32_t first = a.adjacent ? 2 * i : i, second = a.adjacent ? 2 * i + 1 : i + pairs;
    const float x = head[first], y = head[second];
    head[first] = x * cosines[i] - y * sines[i];
    head[second] = x * sines[i] + y * cosines[i];
  }
  __syncwarp();
}

HGA_DEVICE void StoreQuery(const FinishHeadsArgs& a, uint32_t state, const float* head) {
  const size_t to = size_t{state} * a.head_dim;
  for (uint32_t i = Lane(); i < a.head_dim; i += kWarp) a.q_bf16[to + i] = Narrow(head[i]);
  if (a.only_queries) return;
  for (uint32_t i = Lane(); i < a.head_dim; i += kWarp) {
    a.q[to + i] = head[i];
    a.o[to + i] = 0;
  }
  if (Lane() == 0) {
    a.m[state] = -INFINITY;
    a.l[state] = 0;
  }
}

// Shared memory: a head of floats for each warp.
HGA_DEVICE void Run(const FinishHeadsArgs& a) {
  const uint32_t heads = a.query_heads + 2 * a.kv_heads, d = a.head_dim;
  const uint32_t at = blockIdx.x * (blockDim.x / kWarp) + Warp();
  if (at >= a.rows * heads) return;
  const uint32_t row = at / heads, head = at % heads;
  const bool is_query = head < a.query_heads, is_value = head >= a.query_heads + a.kv_heads;
  float* x = reinterpret_cast<float*>(SharedMemory()) + size_t{Warp()} * d;
  float squares = 0;
  for (uint32_t i = Lane(); i < d; i += kWarp) {
    x[i] = a.qkv[size_t{at} * d + i] + (a.bias == nullptr ? 0.0f : a.bias[size_t{head} * d + i]);
    squares += x[i] * x[i];
  }
  const float* norm = is_query ? a.q_norm : is_value ? nullptr : a.k_norm;
  if (norm != nullptr) {
    const float factor = 1 / sqrtf(WarpSum(squares) / d + a.epsilon);
    for (uint32_t i = Lane(); i < d; i += kWarp) x[i] = x[i] * factor * norm[i];
  }
  __syncwarp();
  if (!is_value) TurnHead(a, row, x);
  if (is_query) {
    StoreQuery(a, row * a.query_heads + head, x);
    return;
  }
  if (a.only_queries) return;
  const uint32_t kv_head = (head - a.query_heads) % a.kv_heads;
  if (is_value) {
    const size_t sum = size_t{row} * a.kv_heads + kv_head;
    for (uint32_t i = Lane(); i < d; i += kWarp) a.sums[sum * d + i] = 0;
    if (Lane() == 0) a.counts[sum] = 0;
  }
  bf16* to = a.kv + ((size_t{kv_head} * 2 + (is_value ? 1 : 0)) * a.rows + row) * d;
  for (uint32_t first = 0; first < d; first += kWarp) {
    const uint32_t i = first + Lane();
    bf16 rounded = Narrow(i < d ? x[i] : 0.0f);
    if (a.int8 != 0) rounded = RoundToInt8(rounded);
    if (i < d) to[i] = rounded;
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_HEADS_H_
