// Exact attention of up to kManyQueries queries of one KV head over a ragged list of runs, on tensor cores: prefill.
// Four warps, each with 16 of the queries; queries, weights, keys and values are bf16, sums are float.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_MANY_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_MANY_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/attend_few.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/key_tile.h"
#include "gpu_worker/backend/cuda/kernels/states.h"

namespace hga {

HGA_DEVICE ManyBlock LayOutMany(uint32_t d) {
  ManyBlock b;
  b.list = reinterpret_cast<KeyList<kManyKeys>*>(SharedMemory());
  b.keep = reinterpret_cast<float*>(b.list + 1);
  b.queries = reinterpret_cast<bf16*>(b.keep + kManyQueries);
  b.keys = b.queries + kManyQueries * ManyStride(d);
  b.values = b.keys + kManyKeys * ManyStride(d);
  b.scores = reinterpret_cast<float*>(b.values + kManyKeys * ManyStride(d));
  b.weights = reinterpret_cast<bf16*>(b.scores + kManyQueries * kManyScoreStride);
  b.sums = reinterpret_cast<float*>(b.weights + kManyQueries * kManyWeightStride);
  return b;
}

HGA_DEVICE void LoadManyQueries(const AttendManyArgs& a, const AttendItem& item, const ManyBlock& b) {
  const uint32_t d = a.head_dim, chunks = d / 8;
  for (uint32_t i = threadIdx.x; i < kManyQueries * chunks; i += kManyThreads) {
    const uint32_t s = i / chunks, at = i % chunks * 8;
    Bytes16 part = {};
    if (s < item.queries) {
      part = *reinterpret_cast<const Bytes16*>(a.q + size_t{PlaceOfQuery(a, item, s).state} * d + at);
    }
    *reinterpret_cast<Bytes16*>(b.queries + s * ManyStride(d) + at) = part;
  }
  for (uint32_t i = threadIdx.x; i < kManyQueries * ManySumStride(d); i += kManyThreads) b.sums[i] = 0;
}

// scores of the warp's 16 queries and all keys of the tile
HGA_DEVICE void ManyScores(const ManyBlock& b, uint32_t d) {
  const bf16* queries = b.queries + Warp() * 16 * ManyStride(d);
  HGA_UNROLL
  for (uint32_t key = 0; key < kManyKeys; key += 16) {
    TileC scores;
    ClearTile(&scores);
    for (uint32_t i = 0; i < d; i += 16) {
      TileA left;
      TileBt right;
      LoadTile(&left, queries + i, ManyStride(d));
      LoadTile(&right, b.keys + key * ManyStride(d) + i, ManyStride(d));
      MultiplyTiles(left, right, &scores);
    }
    StoreTile(b.scores + Warp() * 16 * kManyScoreStride + key, scores, kManyScoreStride);
  }
  __syncwarp();
}

// A lane for each key, query by query. m and l of the warp's 16 queries: lane s has those of query s.
HGA_DEVICE void ManySoftmax(const AttendManyArgs& a, const AttendItem& item, const ManyBlock& b, float* m, float* l) {
  static_assert(kManyKeys == kWarp, "a lane for each key");
  const uint32_t key = Lane();
  for (uint32_t i = 0; i < 16; ++i) {
    const uint32_t s = Warp() * 16 + i;
    float score = -INFINITY;
    if (s < item.queries && b.list->keys[key] != nullptr) {
      const QueryPlace place = PlaceOfQuery(a, item, s);
      if (b.list->position[key] <= a.positions[place.row] && b.list->first_row[key] <= place.row_in_block) {
        score = b.scores[s * kManyScoreStride + key] * a.scale;
      }
    }
    const float old = __shfl_sync(kFullWarp, *m, i), top = fmaxf(old, WarpMax(score));
    const float weight = score == -INFINITY ? 0.0f : expf(score - top);
    const float sum = WarpSum(weight), keep = StateShare(old, top);
    b.weights[s * kManyWeightStride + key] = Narrow(weight);
    if (Lane() == i) {
      *l = *l * keep + sum;
      *m = top;
      b.keep[s] = keep;
    }
  }
  __syncwarp();
}

HGA_DEVICE void AddManyValues(const ManyBlock& b, uint32_t d) {
  float* sums = b.sums + Warp() * 16 * ManySumStride(d);
  for (uint32_t i = Lane(); i < 16 * d; i += kWarp) {
    sums[i / d * ManySumStride(d) + i % d] *= b.keep[Warp() * 16 + i / d];
  }
  __syncwarp();
  for (uint32_t at = 0; at < d; at += 16) {
    TileC sum;
    LoadTile(&sum, sums + at, ManySumStride(d));
    HGA_UNROLL
    for (uint32_t key = 0; key < kManyKeys; key += 16) {
      TileA left;
      TileB right;
      LoadTile(&left, b.weights + Warp() * 16 * kManyWeightStride + key, kManyWeightStride);
      LoadTile(&right, b.values + key * ManyStride(d) + at, ManyStride(d));
      MultiplyTiles(left, right, &sum);
    }
    StoreTile(sums + at, sum, ManySumStride(d));
  }
  __syncwarp();
}

HGA_DEVICE void StoreMany(const AttendManyArgs& a, const AttendItem& item, const ManyBlock& b, float m, float l) {
  const uint32_t d = a.head_dim;
  for (uint32_t i = 0; i < 16; ++i) {
    const uint32_t s = Warp() * 16 + i;
    if (s >= item.queries) break;
    const uint32_t state = PlaceOfQuery(a, item, s).state;
    const float new_m = __shfl_sync(kFullWarp, m, i), new_l = __shfl_sync(kFullWarp, l, i);
    const float old_m = a.m[state], old_l = a.l[state];
    const float top = fmaxf(new_m, old_m), own = StateShare(new_m, top), other = StateShare(old_m, top);
    for (uint32_t at = Lane(); at < d; at += kWarp) {
      float* o = a.o + size_t{state} * d + at;
      *o = b.sums[s * ManySumStride(d) + at] * own + *o * other;
    }
    __syncwarp();  // all lanes have read m and l
    if (Lane() == 0) {
      a.m[state] = top;
      a.l[state] = new_l * own + old_l * other;
    }
  }
}

// Shared memory: ManySharedBytes.
HGA_DEVICE void Run(const AttendManyArgs& a) {
  const AttendItem item = a.items[blockIdx.x];
  const uint32_t d = a.head_dim, count = KeysOfItem(item, a.runs);
  const ManyBlock b = LayOutMany(d);
  LoadManyQueries(a, item, b);
  float m = -INFINITY, l = 0;
  for (uint32_t first = 0; first < count; first += kManyKeys) {
    __syncthreads();  // the last tile has been used
    if (threadIdx.x < kManyKeys) FindKey(item, a.runs, d, first + threadIdx.x, count, b.list, threadIdx.x);
    __syncthreads();
    LoadKeyRows<kManyKeys>(b.list->keys, d, d, ManyStride(d), b.keys);
    LoadKeyRows<kManyKeys>(b.list->values, d, d, ManyStride(d), b.values);
    __syncthreads();
    ManyScores(b, d);
    ManySoftmax(a, item, b, &m, &l);
    AddManyValues(b, d);
  }
  __syncthreads();
  StoreMany(a, item, b, m, l);
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_MANY_H_
