// What blocks of the kernels keep in shared memory, and its size: the host must ask for as much.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_SHARED_LAYOUT_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_SHARED_LAYOUT_H_

#include <cstddef>

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/route_args.h"

#if defined(__CUDACC__)
#define HGA_BOTH __host__ __device__ constexpr
#else
#define HGA_BOTH constexpr
#endif

namespace hga {

// --- Gemv ---
inline constexpr uint32_t kGemvSharedBytes = kGemvWarps * kGemvOutputs * kGemvRows * 4;

// --- TileGemm ---
// Elements from row to row of the input: eight more than needed, against bank conflicts. Two steps take turns.
inline constexpr uint32_t kGemmStride = kGemmTileCols + 8;
inline constexpr uint32_t kTileGemmSharedBytes = 2 * kGemmTileRows * kGemmStride * 2;

// --- TopLogits ---
inline constexpr uint32_t kTopSharedBytes = (kTopSlice + kTopThreads / 32) * sizeof(TokenLogit);

// --- LogitMass ---
inline constexpr uint32_t kLogitMassSharedBytes = kTopThreads / 32 * sizeof(uint64_t);

// --- Selection ---
// Of a table of sums of signed channels: seven bits, as common/kv/sketch.h's readers have them.
inline constexpr float kRouteLargestEntry = 127, kRouteLargestQuery = 32767;
// As router/index/score.h.
inline constexpr float kRouteStepsPerNat = 184.66497f;
inline constexpr int32_t kRouteWeightOfReference = 127 * 128 - 6;
inline constexpr int32_t kRouteLargestWeight = kRouteWeightOfReference + 100 * 128;
// As SketchSumShift.
HGA_BOTH uint32_t RouteSumShift(uint32_t zero, uint32_t head_dim) {
  const uint32_t most = zero + head_dim / 8 + 1;
  uint32_t shift = 0;
  while (most << (shift + 1) <= 32767) ++shift;
  return shift;
}
struct RouteCutShared {
  uint32_t bins[kRouteBins], sums[32];
  uint32_t digit, above, equal;
};
// Two tiles.
inline constexpr uint32_t kRouteSumSharedBytes = 2 * kRouteTile * 4;
// Magnitudes are added up so many at a time; zeros lie behind them.
inline constexpr uint32_t kRouteMagnitudes = 16;
HGA_BOTH uint32_t RouteMagnitudesPadded(uint32_t count) {
  return (count + kRouteMagnitudes - 1) / kRouteMagnitudes * kRouteMagnitudes;
}
// What a query's spread is the sum of, its weights, the query, and sums of the magnitudes of four weights each.
HGA_BOTH uint32_t RouteTablesSharedBytes(uint32_t head_dim) {
  return head_dim * (8 + 4) + (RouteMagnitudesPadded(head_dim) + RouteMagnitudesPadded(head_dim / 4)) * 4;
}
// Queries of a KV head.
HGA_BOTH uint32_t RouteCoarseSharedBytes(uint32_t head_dim, uint32_t per_head) { return per_head * head_dim * 2; }
// Tables have entries of four heads side by side, in a word.
HGA_BOTH uint32_t RouteTableGroups(uint32_t per_head) { return (per_head + 3) / 4; }
HGA_BOTH uint32_t RouteTableWords(uint32_t head_dim) { return head_dim / 4 * 16; }
// A warp's signs: of four tokens in a word.
HGA_BOTH uint32_t RouteSignWords(uint32_t head_dim) { return head_dim / 4 * 8; }
// Tables of a KV head, then the signs of each warp.
HGA_BOTH uint32_t RouteFineSharedBytes(uint32_t head_dim, uint32_t per_head) {
  return (RouteTableGroups(per_head) * RouteTableWords(head_dim) +
          kRouteScoreThreads / 32 * RouteSignWords(head_dim)) * 4;
}

// --- K/V of int8, as KvGeometry has it ---
HGA_BOTH uint32_t Int8Scales(uint32_t head_dim) { return (head_dim + kInt8Channels - 1) / kInt8Channels; }
// From a token's K to the next one's.
HGA_BOTH uint32_t Int8RowBytes(uint32_t head_dim) { return 2 * (head_dim + Int8Scales(head_dim)); }

// --- Gather ---
// Sixteen bytes for each lane at a time, so many times before the first of them is written: an answer of the bus takes
// longer than all that a lane asks for.
inline constexpr uint32_t kGatherAhead = 4;
// Of int8, what a warp has brought so until it has been unpacked.
inline constexpr uint32_t kGatherStageBytes = kGatherAhead * 32 * 16;

// --- Attention ---
// Where the keys of a tile lie and who sees them. keys[i] nullptr: there is no such key.
template <uint32_t kKeys>
struct KeyList {
  const bf16 *keys[kKeys], *values[kKeys];
  uint32_t position[kKeys], first_row[kKeys];
};

inline constexpr uint32_t kFewHeadDim = 256, kFewWarps = kFewThreads / 32;
// Floats that a warp leaves of its sums: elements of its queries' heads, and eight more for every 32 against bank
// conflicts.
inline constexpr uint32_t kFewSums = kFewQueries * (kFewHeadDim / 2) * 40 / 32;

// The keys at hand, and the runs that they are in.
struct FewTile {
  KeyList<kFewKeys> list;
  DeviceRun runs[kFewKeys];
};
struct FewShared {
  AttendItem item;  // of the queries at hand
  uint32_t states[kFewQueries];  // of the queries: where they and their rows' states lie
  alignas(16) float weights[kFewWarps][kFewAtOnce * kFewQueries];
  float keep[kFewWarps][kFewQueries], m[kFewWarps][kFewQueries], l[kFewWarps][kFewQueries], other[kFewQueries];
  uint32_t run;   // of the item, that has the next tile's first key
  uint32_t done;  // queries of the block's item, those at hand included
  union {
    FewTile tile;
    float sums[kFewWarps][kFewSums];  // in the end
  };
};
inline constexpr uint32_t kFewSharedBytes = sizeof(FewShared);
static_assert(kFewSharedBytes <= 24 * 1024, "four blocks to a multiprocessor, on every architecture");

HGA_BOTH bool ManyTakes(uint32_t head_dim) { return head_dim % 16 == 0 && head_dim <= kManyHeadDim; }
// Elements from row to row: rows that eight lanes read together lie in different banks.
HGA_BOTH uint32_t ManyStride(uint32_t head_dim) { return head_dim + 8; }

// Two tiles take turns: one is attended while the other's rows come.
struct alignas(16) ManyShared {
  KeyList<kManyKeys> list[2];
  DeviceRun runs[kManyKeys];  // in which the next tile's keys are looked for
  uint32_t first_run[2];               // number of runs[0] in its list, for tiles of either turn
  uint32_t masked[2][kManyKeys / 32];  // not every query sees every key; by the warp that found the keys
  // Behind it, twice: keys, values, each [kManyKeys][ManyStride] bf16.
};
HGA_BOTH uint32_t ManySharedBytes(uint32_t head_dim) {
  return static_cast<uint32_t>(sizeof(ManyShared)) + 2 * 2 * kManyKeys * ManyStride(head_dim) * 2;
}
static_assert(sizeof(ManyShared) % 16 == 0 && offsetof(ManyShared, runs) % 16 == 0, "copies are of 16 bytes");
static_assert(kManyQueries <= kManyKeys, "queries are loaded where keys come");
static_assert(ManySharedBytes(kManyHeadDim) <= 99 * 1024, "what every architecture from sm_80 on has");

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_SHARED_LAYOUT_H_
