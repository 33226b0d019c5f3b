// Exact attention of up to kManyQueries queries of one KV head over a ragged list of runs, on tensor cores: prefill.
// Four warps, each with 16 of the queries in registers; queries, weights, keys and values are bf16, sums are float.
// Online softmax over tiles of kManyKeys keys (FlashAttention-2, arXiv 2307.08691); a tile's rows come while the one
// before it is attended.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_MANY_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_MANY_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/attend_few.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/key_tile.h"
#include "gpu_worker/backend/cuda/kernels/states.h"

namespace hga {

inline constexpr uint32_t kManySteps = kManyHeadDim / 16, kManyColumns = kManyKeys / 8;

struct ManyBlock {
  ManyShared* shared;
  bf16* rows;
  uint32_t head_dim, stride;
  uint32_t count, first_key;  // keys of the item; keys before them in the list
  uint32_t first_position;    // of the item's rows

  HGA_DEVICE bf16* keys(uint32_t turn) const { return rows + 2 * turn * kManyKeys * stride; }
  HGA_DEVICE bf16* values(uint32_t turn) const { return keys(turn) + kManyKeys * stride; }
};

// What a lane has: rows Lane() / 4 and that + 8 of its warp's 16 queries.
struct ManyLane {
  LeftWords queries[kManySteps];
  uint32_t position[2], row_in_block[2];
  float top[2], sum[2];  // largest q.k, unscaled; sum over this lane's keys
  Sums4 out[2 * kManySteps];
};

HGA_DEVICE uint32_t ManyQueryOf(uint32_t which) { return Warp() * 16 + Lane() / 4 + which * 8; }

HGA_DEVICE void LoadManyQueries(const AttendManyArgs& a, const AttendItem& item, const ManyBlock& b, ManyLane* lane) {
  const uint32_t chunks = b.head_dim / 8;
  for (uint32_t i = threadIdx.x; i < kManyQueries * chunks; i += kManyThreads) {
    const uint32_t s = i / chunks, at = i % chunks * 8;
    Bytes16 part = {};
    if (s < item.queries) {
      part = *reinterpret_cast<const Bytes16*>(a.q + size_t{PlaceOfQuery(a, item, s).state} * b.head_dim + at);
    }
    *reinterpret_cast<Bytes16*>(b.rows + s * b.stride + at) = part;
  }
  __syncthreads();
  HGA_UNROLL
  for (uint32_t i = 0; i < kManySteps; ++i) {
    if (i * 16 >= b.head_dim) break;
    LoadLeft(&lane->queries[i], b.rows + Warp() * 16 * b.stride + i * 16, b.stride);
  }
  HGA_UNROLL
  for (uint32_t which = 0; which < 2; ++which) {
    const QueryPlace place = PlaceOfQuery(a, item, Least(ManyQueryOf(which), item.queries - 1));
    lane->position[which] = a.positions[place.row];
    lane->row_in_block[which] = place.row_in_block;
    lane->top[which] = -INFINITY;
    lane->sum[which] = 0;
  }
  HGA_UNROLL
  for (uint32_t i = 0; i < 2 * kManySteps; ++i) lane->out[i] = {};
  __syncthreads();  // keys come where queries were
}

// Of tile `tile`, the runs that its keys may be in: from first_run on, a key of its own each at least.
HGA_DEVICE void CopyManyRuns(const AttendManyArgs& a, const AttendItem& item, const ManyBlock& b, uint32_t tile) {
  constexpr uint32_t kParts = sizeof(DeviceRun) / 16;
  const uint32_t first = b.shared->first_run[tile % 2];
  const auto* from = reinterpret_cast<const uint8_t*>(a.runs + item.first_run + first);
  for (uint32_t i = threadIdx.x; i < kManyKeys * kParts; i += kManyThreads) {
    if (first + i / kParts < item.runs) CopyLater(reinterpret_cast<uint8_t*>(b.shared->runs) + i * 16, from + i * 16);
  }
}

// Finds key `number` of the item among the runs that are there; false if not every query sees it.
HGA_DEVICE bool FindManyKey(const ManyBlock& b, const AttendItem& item, uint32_t tile, uint32_t number) {
  ManyShared* s = b.shared;
  KeyList<kManyKeys>* list = &s->list[tile % 2];
  const uint32_t at = number % kManyKeys, first = s->first_run[tile % 2], key = number + b.first_key;
  if (number >= b.count) {
    list->keys[at] = list->values[at] = nullptr;
    return false;
  }
  const uint32_t which = RunOfKey(s->runs, Least(kManyKeys, item.runs - first), key);
  const DeviceRun& run = s->runs[which];
  const uint32_t in_run = key - run.first_key;
  PlaceKey(run, in_run, b.head_dim, list, at);
  if (at + 1 == kManyKeys) s->first_run[(tile + 1) % 2] = first + which + (in_run + 1 == run.tokens);
  return run.first_row == 0 && run.position + in_run <= b.first_position;
}

// Where the tile's keys lie, and where the next tile's are to be looked for. A thread for each key.
HGA_DEVICE void FindManyKeys(const ManyBlock& b, const AttendItem& item, uint32_t tile) {
  if (threadIdx.x >= kManyKeys) return;
  const bool seen = FindManyKey(b, item, tile, tile * kManyKeys + threadIdx.x);
  const float masked = WarpMax(seen ? 0.0f : 1.0f);
  if (Lane() == 0) b.shared->masked[tile % 2][Warp()] = masked > 0 ? 1 : 0;
}

// Zeros where there is no key.
HGA_DEVICE void CopyManyRows(const ManyBlock& b, uint32_t tile) {
  const KeyList<kManyKeys>& list = b.shared->list[tile % 2];
  const uint32_t chunks = b.head_dim / 8;
  bf16 *keys = b.keys(tile % 2), *values = b.values(tile % 2);
  HGA_UNROLL_SOME
  for (uint32_t i = threadIdx.x; i < kManyKeys * chunks; i += kManyThreads) {
    const uint32_t key = i / chunks, at = i % chunks * 8, to = key * b.stride + at;
    if (list.keys[key] != nullptr) {
      CopyLater(keys + to, list.keys[key] + at);
      CopyLater(values + to, list.values[key] + at);
    } else {
      *reinterpret_cast<Bytes16*>(keys + to) = Bytes16{};
      *reinterpret_cast<Bytes16*>(values + to) = Bytes16{};
    }
  }
}

// q.k of the warp's queries and the tile's keys, -infinity where a query does not see a key.
HGA_DEVICE void ManyScores(const ManyBlock& b, const ManyLane& lane, uint32_t turn, Sums4* scores) {
  HGA_UNROLL
  for (uint32_t n = 0; n < kManyColumns; ++n) scores[n] = {};
  HGA_UNROLL
  for (uint32_t i = 0; i < kManySteps; ++i) {
    if (i * 16 >= b.head_dim) break;
    HGA_UNROLL
    for (uint32_t n = 0; n < kManyColumns; n += 2) {
      RightWords keys;
      LoadRight(&keys, b.keys(turn) + n * 8 * b.stride + i * 16, b.stride);
      MultiplyWords(lane.queries[i], keys, 0, &scores[n]);
      MultiplyWords(lane.queries[i], keys, 1, &scores[n + 1]);
    }
  }
  if ((b.shared->masked[turn][0] | b.shared->masked[turn][1]) == 0) return;
  const KeyList<kManyKeys>& list = b.shared->list[turn];
  HGA_UNROLL
  for (uint32_t n = 0; n < kManyColumns; ++n) {
    HGA_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t key = n * 8 + Lane() % 4 * 2 + i % 2, which = i / 2;
      const bool seen = list.keys[key] != nullptr && list.position[key] <= lane.position[which] &&
                        list.first_row[key] <= lane.row_in_block[which];
      if (!seen) scores[n].x[i] = -INFINITY;
    }
  }
}

// Scores to weights; what was summed before is scaled to the new maxima. scale: of q.k, times log2(e).
HGA_DEVICE void ManySoftmax(float scale, Sums4* scores, ManyLane* lane) {
  HGA_UNROLL
  for (uint32_t which = 0; which < 2; ++which) {
    float top = lane->top[which];
    HGA_UNROLL
    for (uint32_t n = 0; n < kManyColumns; ++n) {
      top = fmaxf(top, fmaxf(scores[n].x[2 * which], scores[n].x[2 * which + 1]));
    }
    top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, 1));
    top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, 2));
    const float base = top == -INFINITY ? 0.0f : top * scale;
    const float keep = lane->top[which] == -INFINITY ? 0.0f : exp2f(fmaf(lane->top[which], scale, -base));
    lane->top[which] = top;
    float sum = 0;
    HGA_UNROLL
    for (uint32_t n = 0; n < kManyColumns; ++n) {
      HGA_UNROLL
      for (uint32_t i = 2 * which; i < 2 * which + 2; ++i) {
        scores[n].x[i] = exp2f(fmaf(scores[n].x[i], scale, -base));
        sum += scores[n].x[i];
      }
    }
    lane->sum[which] = lane->sum[which] * keep + sum;
    HGA_UNROLL
    for (uint32_t n = 0; n < 2 * kManySteps; ++n) {
      lane->out[n].x[2 * which] *= keep;
      lane->out[n].x[2 * which + 1] *= keep;
    }
  }
}

// Sums of two products, as they lie, are the left side of the next one.
HGA_DEVICE void AddManyValues(const ManyBlock& b, uint32_t turn, const Sums4* weights, ManyLane* lane) {
  HGA_UNROLL
  for (uint32_t n = 0; n < kManyColumns; n += 2) {
    LeftWords left;
    HGA_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      const Sums4& w = weights[n + i / 2];
      left.x[i] = NarrowPair(w.x[i % 2 * 2], w.x[i % 2 * 2 + 1]);
    }
    HGA_UNROLL
    for (uint32_t i = 0; i < kManySteps; ++i) {
      if (i * 16 >= b.head_dim) break;
      RightWords values;
      LoadRightTransposed(&values, b.values(turn) + n * 8 * b.stride + i * 16, b.stride);
      MultiplyWords(left, values, 0, &lane->out[2 * i]);
      MultiplyWords(left, values, 1, &lane->out[2 * i + 1]);
    }
  }
}

// Into the rows' states, merged with what is there.
HGA_DEVICE void StoreMany(const AttendManyArgs& a, const AttendItem& item, const ManyBlock& b, const ManyLane& lane) {
  HGA_UNROLL
  for (uint32_t which = 0; which < 2; ++which) {
    float sum = lane.sum[which];
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
    const bool there = ManyQueryOf(which) < item.queries;
    const uint32_t state = PlaceOfQuery(a, item, there ? ManyQueryOf(which) : 0).state;
    const float m = lane.top[which] * a.scale, old_m = a.m[state], old_l = a.l[state], top = fmaxf(m, old_m);
    const float own = StateShare(m, top), other = StateShare(old_m, top);
    __syncwarp();  // all lanes have read m and l
    if (!there) continue;
    HGA_UNROLL
    for (uint32_t n = 0; n < 2 * kManySteps; ++n) {
      if (n * 8 >= b.head_dim) break;
      float* o = a.o + size_t{state} * b.head_dim + n * 8 + Lane() % 4 * 2;
      o[0] = lane.out[n].x[2 * which] * own + o[0] * other;
      o[1] = lane.out[n].x[2 * which + 1] * own + o[1] * other;
    }
    if (Lane() % 4 == 0) {
      a.m[state] = top;
      a.l[state] = sum * own + old_l * other;
    }
  }
}

// Starts the copies of the tile's rows and of the runs of the one after it. Barriers before: its runs are there, and
// nobody uses its turn any more.
HGA_DEVICE void BringManyTile(const AttendManyArgs& a, const AttendItem& item, const ManyBlock& b, uint32_t tile) {
  FindManyKeys(b, item, tile);
  __syncthreads();
  CopyManyRows(b, tile);
  if ((tile + 1) * kManyKeys < b.count) CopyManyRuns(a, item, b, tile + 1);
}

// Shared memory: ManySharedBytes.
HGA_DEVICE void Run(const AttendManyArgs& a) {
  constexpr float kLog2E = 1.4426950408889634f;
  const AttendItem item = a.items[blockIdx.x];
  ManyBlock b;
  b.shared = reinterpret_cast<ManyShared*>(SharedMemory());
  b.rows = reinterpret_cast<bf16*>(b.shared + 1);
  b.head_dim = a.head_dim;
  b.stride = ManyStride(a.head_dim);
  b.count = KeysOfItem(item, a.runs);
  if (b.count == 0) return;
  b.first_key = a.runs[item.first_run].first_key;
  b.first_position = a.positions[item.first_row + item.first_query / a.per_head];
  if (threadIdx.x == 0) b.shared->first_run[0] = 0;
  ManyLane lane;
  LoadManyQueries(a, item, b, &lane);
  CopyManyRuns(a, item, b, 0);
  WaitForCopies();
  __syncthreads();
  BringManyTile(a, item, b, 0);
  for (uint32_t tile = 0; tile * kManyKeys < b.count; ++tile) {
    const uint32_t turn = tile % 2;
    WaitForCopies();
    __syncthreads();  // the tile is there, and the one before it has been used
    if ((tile + 1) * kManyKeys < b.count) BringManyTile(a, item, b, tile + 1);
    Sums4 scores[kManyColumns];
    ManyScores(b, lane, turn, scores);
    ManySoftmax(a.scale * kLog2E, scores, &lane);
    AddManyValues(b, turn, scores, &lane);
  }
  StoreMany(a, item, b, lane);
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_MANY_H_
