// Exact attention of up to kFewQueries queries of one KV head over a ragged list of runs, in float: decode, and shapes
// that AttendMany does not take. Decode waits for memory, so all is made to keep loads under way: keys and values go
// straight to registers, each warp has its own keys and its own online softmax, and what comes next is asked for as
// soon as what is at hand has been used.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_FEW_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_FEW_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/key_tile.h"
#include "gpu_worker/backend/cuda/kernels/states.h"

namespace hga {

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

// How a warp shares out a head, of a multiple of 8 elements, and its queries. Each lane has 2 kWords consecutive
// elements of every key, value and query; kQueries are taken at a time.
template <uint32_t kWordsOfLane, uint32_t kQueriesAtOnce>
struct FewShape {
  static constexpr uint32_t kWords = kWordsOfLane, kElements = 2 * kWords, kQueries = kQueriesAtOnce;
  // Lanes that share a query's scores, and those of them that share a key's.
  static constexpr uint32_t kOfQuery = kWarp / kQueries, kOfKey = kOfQuery / kFewAtOnce;
};

// The score that this lane is left with: of which query, and of which of the keys at hand.
template <typename Shape>
HGA_DEVICE uint32_t QueryOfLane() {
  return IndexOfSum<Shape::kQueries, kWarp>();
}
template <typename Shape>
HGA_DEVICE uint32_t KeyOfLane() {
  return IndexOfSum<kFewAtOnce, Shape::kOfQuery>();
}

// What a lane holds of the queries that its warp is at.
template <typename Shape>
struct FewLane {
  // Of query i ^ QueryOfLane, so that the query that a lane is left with is the first of its own: see FewDot.
  Floats<Shape::kElements> queries[Shape::kQueries];
  float sums[Shape::kQueries][Shape::kElements];  // of query i
  // Of QueryOfLane: its softmax (l of this lane's keys only), and what it sees.
  float m, l;
  uint32_t position, row_in_block;
};

// Lanes beyond the head read its start, rather than branch: nobody looks at their sums, and their queries are zero.
template <typename Shape>
HGA_DEVICE void LoadFewRows(const bf16* const* rows, uint32_t head_dim, Words<Shape::kWords> to[kFewAtOnce]) {
  const uint32_t first = Lane() * Shape::kElements, offset = first < head_dim ? first : 0;
  HGA_UNROLL
  for (uint32_t i = 0; i < kFewAtOnce; ++i) {
    to[i] = *reinterpret_cast<const Words<Shape::kWords>*>(InGlobal(rows[i]) + offset);
  }
}

// Queries beyond the item's are its last again.
template <typename Shape>
HGA_DEVICE void StartFewLane(const AttendFewArgs& a, const AttendItem& item, FewShared* shared, FewLane<Shape>* lane) {
  const uint32_t last = item.queries - 1;
  if (threadIdx.x < Shape::kQueries) {
    shared->states[threadIdx.x] = PlaceOfQuery(a, item, Least(threadIdx.x, last)).state;
  }
  if (threadIdx.x == 0) {
    shared->item = item;
    shared->run = 0;
  }
  const QueryPlace place = PlaceOfQuery(a, item, Least(QueryOfLane<Shape>(), last));
  lane->position = a.positions[place.row];
  lane->row_in_block = place.row_in_block;
  lane->m = -INFINITY;
  lane->l = 0;
  __syncthreads();
  HGA_UNROLL
  for (uint32_t s = 0; s < Shape::kQueries; ++s) {
    const float* query = a.q + size_t{shared->states[s ^ QueryOfLane<Shape>()]} * a.head_dim;
    const uint32_t first = Lane() * Shape::kElements;
    lane->queries[s] = {};
    if (first < a.head_dim) lane->queries[s] = *reinterpret_cast<const Floats<Shape::kElements>*>(query + first);
    HGA_UNROLL
    for (uint32_t e = 0; e < Shape::kElements; ++e) lane->sums[s][e] = 0;
  }
}

// A thread for each of the keys from `first`, of those before `end` (both counted as DeviceRun::first_key). Keys behind
// the last are the last again, where nobody sees it.
HGA_DEVICE void FindFewKeys(const AttendFewArgs& a, uint32_t first, uint32_t end, FewShared* shared) {
  FewTile& tile = shared->tile;
  const uint32_t at = threadIdx.x, key = Least(first + at, end - 1);
  const uint32_t run = shared->run, runs = Least(kFewKeys, shared->item.runs - run);
  if (at < runs) tile.runs[at] = a.runs[shared->item.first_run + run + at];
  __syncthreads();
  const uint32_t which = RunOfKey(tile.runs, runs, key);
  const DeviceRun& found = tile.runs[which];
  const uint32_t in_run = key - found.first_key;
  PlaceKey(found, in_run, a.head_dim, &tile.list, at);
  if (first + at >= end) tile.list.position[at] = UINT32_MAX;
  if (at == kFewKeys - 1) shared->run = run + which + (in_run + 1 == found.tokens);
  __syncthreads();
}

// The product of one key with all queries, added up over lanes until each has its own query's left: SumApart, but what
// is given away is the upper half in every lane, because lanes hold their queries in different orders.
template <typename Shape>
HGA_DEVICE float FewDot(const FewLane<Shape>& lane, const Words<Shape::kWords>& key) {
  float dots[Shape::kQueries] = {};
  HGA_UNROLL
  for (uint32_t e = 0; e < Shape::kElements; ++e) {
    const float element = Bf16At(key, e);
    HGA_UNROLL
    for (uint32_t i = 0; i < Shape::kQueries; ++i) dots[i] += lane.queries[i].at[e] * element;
  }
  HGA_UNROLL
  for (uint32_t left = Shape::kQueries / 2, step = kWarp / 2; left > 0; left /= 2, step /= 2) {
    HGA_UNROLL
    for (uint32_t i = 0; i < left; ++i) dots[i] += __shfl_xor_sync(kFullWarp, dots[i + left], step);
  }
  return dots[0];
}

// This lane's score; key `first` of the tile is the first at hand. -infinity where the query does not see the key.
template <typename Shape>
HGA_DEVICE float FewScore(const FewLane<Shape>& lane, const Words<Shape::kWords> keys[kFewAtOnce],
                          const FewTile& tile, uint32_t first, float scale) {
  float dots[kFewAtOnce];
  HGA_UNROLL
  for (uint32_t i = 0; i < kFewAtOnce; ++i) dots[i] = FewDot(lane, keys[i]);
  const float dot = SumApart<kFewAtOnce, Shape::kOfQuery>(dots);
  const uint32_t key = first + KeyOfLane<Shape>();
  const bool seen = tile.list.position[key] <= lane.position && tile.list.first_row[key] <= lane.row_in_block;
  return seen ? dot * scale : -INFINITY;
}

// One step of the online softmax: the weights of the keys at hand. Sums are made smaller where a maximum has grown.
template <typename Shape>
HGA_DEVICE void FewSoftmax(float score, FewShared* shared, FewLane<Shape>* lane) {
  float* weights = shared->weights[Warp()];
  float* keep = shared->keep[Warp()];
  float top = score;
  HGA_UNROLL
  for (uint32_t step = Shape::kOfQuery / 2; step >= Shape::kOfKey; step /= 2) {
    top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, step));
  }
  top = fmaxf(top, lane->m);
  const float weight = StateShare(score, top), share = StateShare(lane->m, top);
  const bool grown = __any_sync(kFullWarp, top > lane->m) != 0;
  lane->l = lane->l * share + weight;
  lane->m = top;
  __syncwarp();  // all have read the last weights
  weights[KeyOfLane<Shape>() * Shape::kQueries + QueryOfLane<Shape>()] = weight;
  if (grown) keep[QueryOfLane<Shape>()] = share;
  __syncwarp();
  if (!grown) return;
  HGA_UNROLL
  for (uint32_t s = 0; s < Shape::kQueries; ++s) {
    HGA_UNROLL
    for (uint32_t e = 0; e < Shape::kElements; ++e) lane->sums[s][e] *= keep[s];
  }
}

template <typename Shape>
HGA_DEVICE void AddFewValues(const Words<Shape::kWords> values[kFewAtOnce], const FewShared& shared,
                             FewLane<Shape>* lane) {
  const auto* weights = reinterpret_cast<const Floats<4>*>(shared.weights[Warp()]);
  HGA_UNROLL
  for (uint32_t key = 0; key < kFewAtOnce; ++key) {
    HGA_UNROLL
    for (uint32_t s = 0; s < Shape::kQueries; s += 4) {
      const Floats<4> weight = weights[(key * Shape::kQueries + s) / 4];
      HGA_UNROLL
      for (uint32_t e = 0; e < Shape::kElements; ++e) {
        const float value = Bf16At(values[key], e);
        HGA_UNROLL
        for (uint32_t i = 0; i < 4; ++i) lane->sums[s + i][e] += weight.at[i] * value;
      }
    }
  }
}

// Warps take turns at the tile's keys, of which `count` are there.
template <typename Shape>
HGA_DEVICE void AttendFewTile(const AttendFewArgs& a, uint32_t count, FewShared* shared, FewLane<Shape>* lane) {
  const FewTile& tile = shared->tile;
  const uint32_t head_dim = a.head_dim;
  uint32_t at = Warp() * kFewAtOnce;
  if (at >= count) return;
  Words<Shape::kWords> keys[kFewAtOnce], values[kFewAtOnce];
  LoadFewRows<Shape>(tile.list.keys + at, head_dim, keys);
  LoadFewRows<Shape>(tile.list.values + at, head_dim, values);
  while (at < count) {
    const uint32_t next = at + kFewWarps * kFewAtOnce;
    const float score = FewScore(*lane, keys, tile, at, a.scale);
    if (next < count) LoadFewRows<Shape>(tile.list.keys + next, head_dim, keys);
    FewSoftmax(score, shared, lane);
    AddFewValues(values, *shared, lane);
    if (next < count) LoadFewRows<Shape>(tile.list.values + next, head_dim, values);
    at = next;
  }
}

// Where query s leaves its state: among the rows', merged with what is there; or as a part, that nobody has written.
HGA_DEVICE uint32_t FewState(const FewShared& shared, uint32_t s) {
  return shared.item.part != kNoPart ? shared.item.part + s : shared.states[s];
}

// The warps' softmaxes made one: m and l are stored, and each warp learns what its sums are multiplied with.
template <typename Shape>
HGA_DEVICE void MergeFewWarps(const AttendFewArgs& a, FewShared* shared, const FewLane<Shape>& lane) {
  const uint32_t s = QueryOfLane<Shape>(), queries = shared->item.queries, state = FewState(*shared, s);
  const bool merges = s < queries && shared->item.part == kNoPart;
  const float old_m = merges ? a.m[state] : -INFINITY, old_l = merges ? a.l[state] : 0.0f;
  float l = lane.l;
  HGA_UNROLL
  for (uint32_t step = Shape::kOfQuery / 2; step >= Shape::kOfKey; step /= 2) {
    l += __shfl_xor_sync(kFullWarp, l, step);
  }
  const bool leads = Lane() % Shape::kOfQuery == 0;
  if (leads) {
    shared->m[Warp()][s] = lane.m;
    shared->l[Warp()][s] = l;
  }
  __syncthreads();
  float top = old_m;
  HGA_UNROLL
  for (uint32_t w = 0; w < kFewWarps; ++w) top = fmaxf(top, shared->m[w][s]);
  if (leads) shared->keep[Warp()][s] = StateShare(lane.m, top);
  __syncwarp();
  if (!leads || Warp() != 0 || s >= queries) return;
  const float other = StateShare(old_m, top);
  float sum = old_l * other;
  HGA_UNROLL
  for (uint32_t w = 0; w < kFewWarps; ++w) sum += shared->l[w][s] * StateShare(shared->m[w][s], top);
  a.m[state] = top;
  a.l[state] = sum;
  shared->other[s] = other;
}

// Where element e of lane l's query s lies among a warp's sums: neither those who write a lane's elements nor those who
// read consecutive elements get into each other's way.
template <typename Shape>
HGA_DEVICE uint32_t PlaceOfSum(uint32_t s, uint32_t lane, uint32_t e) {
  static_assert(Shape::kQueries * Shape::kElements * (kWarp + 8) <= kFewSums, "there is room");
  return (s * Shape::kElements + e) * (kWarp + 8) + lane;
}

template <typename Shape>
HGA_DEVICE void StoreFew(const AttendFewArgs& a, FewShared* shared, const FewLane<Shape>& lane) {
  MergeFewWarps(a, shared, lane);
  HGA_UNROLL
  for (uint32_t s = 0; s < Shape::kQueries; ++s) {
    const float keep = shared->keep[Warp()][s];
    HGA_UNROLL
    for (uint32_t e = 0; e < Shape::kElements; ++e) {
      shared->sums[Warp()][PlaceOfSum<Shape>(s, Lane(), e)] = lane.sums[s][e] * keep;
    }
  }
  __syncthreads();
  const bool merges = shared->item.part == kNoPart;
  for (uint32_t s = Warp(); s < shared->item.queries; s += kFewWarps) {
    float* o = a.o + size_t{FewState(*shared, s)} * a.head_dim;
    for (uint32_t at = Lane(); at < a.head_dim; at += kWarp) {
      float sum = merges ? o[at] * shared->other[s] : 0.0f;
      HGA_UNROLL
      for (uint32_t w = 0; w < kFewWarps; ++w) {
        sum += shared->sums[w][PlaceOfSum<Shape>(s, at / Shape::kElements, at % Shape::kElements)];
      }
      o[at] = sum;
    }
  }
}

// All keys of an item, of which there must be some, and at most Shape::kQueries queries.
template <typename Shape>
HGA_DEVICE void AttendFewQueries(const AttendFewArgs& a, const AttendItem& item, FewShared* shared) {
  FewLane<Shape> lane;
  StartFewLane(a, item, shared, &lane);
  uint32_t first = a.runs[item.first_run].first_key;
  const uint32_t end = first + KeysOfItem(item, a.runs);
  do {
    FindFewKeys(a, first, end, shared);
    AttendFewTile(a, Least(kFewKeys, end - first), shared, &lane);
    __syncthreads();  // the tile has been used
    first += kFewKeys;
  } while (first < end);
  StoreFew(a, shared, lane);
}

// Long heads take so many registers that the queries are taken in two goes; so what the next one needs to know is kept
// in shared memory.
template <typename Shape>
HGA_DEVICE void AttendFewItem(const AttendFewArgs& a) {
  FewShared* shared = reinterpret_cast<FewShared*>(SharedMemory());
  uint32_t done = 0;
  for (;;) {
    AttendItem item = a.items[blockIdx.x];
    item.first_query += done;
    item.queries = Least(item.queries - done, Shape::kQueries);
    if (item.part != kNoPart) item.part += done;
    if (threadIdx.x == 0) shared->done = done + Shape::kQueries;
    AttendFewQueries<Shape>(a, item, shared);
    done = shared->done;
    if (Shape::kQueries == kFewQueries || done >= a.items[blockIdx.x].queries) return;
    __syncthreads();  // the sums have been read
  }
}

// Shared memory: kFewSharedBytes.
HGA_DEVICE void Run(const AttendFewArgs& a) {
  if (a.head_dim <= 64) {
    AttendFewItem<FewShape<1, 8>>(a);
  } else if (a.head_dim <= 128) {
    AttendFewItem<FewShape<2, 8>>(a);
  } else {
    AttendFewItem<FewShape<4, 4>>(a);
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ATTEND_FEW_H_
