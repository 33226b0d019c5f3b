// Exact attention of up to kFewQueries queries of one KV head over a ragged list of runs, in float: decode, and shapes
// that AttendMany does not take. Online softmax over tiles of kFewKeys keys.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_FEW_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_FEW_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/key_tile.h"
#include "gpu_worker/backend/cuda/kernels/states.h"

namespace hga {

inline constexpr uint32_t kFewWarps = kFewThreads / kWarp, kFewPerWarp = kFewQueries / kFewWarps;

struct FewBlock {
  FewShared* shared;
  float* queries;
  bf16 *keys, *values;
  uint32_t padded, stride;
};

HGA_DEVICE FewBlock LayOutFew(uint32_t head_dim) {
  FewBlock b;
  b.padded = FewPadded(head_dim);
  b.stride = FewStride(head_dim);
  b.shared = reinterpret_cast<FewShared*>(SharedMemory());
  b.queries = reinterpret_cast<float*>(b.shared + 1);
  b.keys = reinterpret_cast<bf16*>(b.queries + kFewQueries * b.padded);
  b.values = b.keys + kFewKeys * b.stride;
  return b;
}

// Row of the step, query head and state of query s of an item.
struct QueryPlace {
  uint32_t row, row_in_block, state;
};
template <typename Args>
HGA_DEVICE QueryPlace PlaceOfQuery(const Args& a, const AttendItem& item, uint32_t s) {
  const uint32_t query = item.first_query + s, row = query / a.per_head;
  QueryPlace place;
  place.row = item.first_row + row;
  place.row_in_block = row;
  place.state = place.row * a.query_heads + item.kv_head * a.per_head + query % a.per_head;
  return place;
}

HGA_DEVICE void LoadFewQueries(const AttendFewArgs& a, const AttendItem& item, const FewBlock& b) {
  for (uint32_t i = threadIdx.x; i < kFewQueries * b.padded; i += kFewThreads) {
    const uint32_t s = i / b.padded, at = i % b.padded;
    const bool there = s < item.queries && at < a.head_dim;
    b.queries[i] = there ? a.q[size_t{PlaceOfQuery(a, item, s).state} * a.head_dim + at] * a.scale : 0.0f;
  }
}

// Of this lane's key and query s; -infinity where the query does not see the key.
HGA_DEVICE float FewScore(const AttendFewArgs& a, const AttendItem& item, const FewBlock& b, uint32_t s) {
  const KeyList<kFewKeys>& list = b.shared->list;
  const uint32_t key = Lane();
  if (s >= item.queries || list.keys[key] == nullptr) return -INFINITY;
  const QueryPlace place = PlaceOfQuery(a, item, s);
  if (list.position[key] > a.positions[place.row] || list.first_row[key] > place.row_in_block) return -INFINITY;
  const float* query = b.queries + s * b.padded;
  const auto* row = reinterpret_cast<const Bytes16*>(b.keys + key * b.stride);
  float sum = 0;
  HGA_UNROLL_SOME
  for (uint32_t c = 0; c < b.padded / 8; ++c) {
    const Bytes16 part = row[c];
    HGA_UNROLL
    for (uint32_t j = 0; j < 8; ++j) sum += query[c * 8 + j] * Bf16At(part, j);
  }
  return sum;
}

// One tile's step of the online softmax of query s, by its warp: weights and what the old sums are multiplied with.
HGA_DEVICE void FewSoftmax(const FewBlock& b, uint32_t s, float score, float* m, float* l) {
  const float top = fmaxf(*m, WarpMax(score));
  const float weight = score == -INFINITY ? 0.0f : expf(score - top);
  const float keep = StateShare(*m, top);
  *l = *l * keep + WarpSum(weight);
  *m = top;
  b.shared->weights[s][Lane()] = weight;
  if (Lane() == 0) b.shared->keep[s] = keep;
}

HGA_DEVICE void AddFewValues(const FewBlock& b, uint32_t head_dim, float sums[kFewQueries][kFewOwned]) {
  HGA_UNROLL
  for (uint32_t n = 0; n < kFewOwned; ++n) {
    const uint32_t at = threadIdx.x + n * kFewThreads;
    if (at >= head_dim) break;
    HGA_UNROLL
    for (uint32_t s = 0; s < kFewQueries; ++s) sums[s][n] *= b.shared->keep[s];
    HGA_UNROLL_SOME
    for (uint32_t key = 0; key < kFewKeys; ++key) {
      const float value = Widen(b.values[key * b.stride + at]);
      HGA_UNROLL
      for (uint32_t s = 0; s < kFewQueries; ++s) sums[s][n] += b.shared->weights[s][key] * value;
    }
  }
}

// Into the rows' states, merged with what is there; or into a part's, that nobody has written.
HGA_DEVICE void StoreFew(const AttendFewArgs& a, const AttendItem& item, const FewBlock& b, const float* m,
                         const float* l, float sums[kFewQueries][kFewOwned]) {
  HGA_UNROLL
  for (uint32_t i = 0; i < kFewPerWarp; ++i) {
    const uint32_t s = Warp() + i * kFewWarps;
    if (s >= item.queries || Lane() != 0) continue;
    const bool is_part = item.part != kNoPart;
    const uint32_t state = is_part ? item.part + s : PlaceOfQuery(a, item, s).state;
    const float old_m = is_part ? -INFINITY : a.m[state], old_l = is_part ? 0.0f : a.l[state];
    const float top = fmaxf(m[i], old_m), own = StateShare(m[i], top), other = StateShare(old_m, top);
    a.m[state] = top;
    a.l[state] = l[i] * own + old_l * other;
    b.shared->keep[s] = own;
    b.shared->other[s] = other;
  }
  __syncthreads();
  HGA_UNROLL
  for (uint32_t s = 0; s < kFewQueries; ++s) {
    if (s >= item.queries) break;
    const bool is_part = item.part != kNoPart;
    const uint32_t state = is_part ? item.part + s : PlaceOfQuery(a, item, s).state;
    HGA_UNROLL
    for (uint32_t n = 0; n < kFewOwned; ++n) {
      const uint32_t at = threadIdx.x + n * kFewThreads;
      if (at >= a.head_dim) break;
      float* o = a.o + size_t{state} * a.head_dim + at;
      *o = sums[s][n] * b.shared->keep[s] + (is_part ? 0.0f : *o * b.shared->other[s]);
    }
  }
}

// Warp w scores the queries w, w + kFewWarps, ..., a key in each lane. Shared memory: FewSharedBytes.
HGA_DEVICE void Run(const AttendFewArgs& a) {
  const AttendItem item = a.items[blockIdx.x];
  const FewBlock b = LayOutFew(a.head_dim);
  const uint32_t count = KeysOfItem(item, a.runs);
  LoadFewQueries(a, item, b);
  float m[kFewPerWarp], l[kFewPerWarp], sums[kFewQueries][kFewOwned] = {};
  HGA_UNROLL
  for (uint32_t i = 0; i < kFewPerWarp; ++i) {
    m[i] = -INFINITY;
    l[i] = 0;
  }
  for (uint32_t first = 0; first < count; first += kFewKeys) {
    if (threadIdx.x < kFewKeys) {
      FindKey(item, a.runs, a.head_dim, first + threadIdx.x, count, &b.shared->list, threadIdx.x);
    }
    __syncthreads();
    LoadKeyRows<kFewKeys>(b.shared->list.keys, a.head_dim, b.padded, b.stride, b.keys);
    LoadKeyRows<kFewKeys>(b.shared->list.values, a.head_dim, b.padded, b.stride, b.values);
    __syncthreads();
    HGA_UNROLL
    for (uint32_t i = 0; i < kFewPerWarp; ++i) {
      const uint32_t s = Warp() + i * kFewWarps;
      FewSoftmax(b, s, FewScore(a, item, b, s), &m[i], &l[i]);
    }
    __syncthreads();
    AddFewValues(b, a.head_dim, sums);
  }
  __syncthreads();
  StoreFew(a, item, b, m, l, sums);
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_FEW_H_
