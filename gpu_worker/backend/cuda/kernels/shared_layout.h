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
struct RouteCutShared {
  uint32_t bins[kRouteBins], sums[32];
  uint32_t digit, above, equal;
};
// Two tiles, and a float of each warp.
inline constexpr uint32_t kRouteSoftmaxSharedBytes = (2 * kRouteTile + kRouteSoftmaxThreads / 32) * 4;
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

// --- Attention ---
// Where the keys of a tile lie and who sees them. keys[i] nullptr: there is no such key.
template <uint32_t kKeys>
struct KeyList {
  const bf16 *keys[kKeys], *values[kKeys];
  uint32_t position[kKeys], first_row[kKeys];
};

// Longest head of AttendFew: each thread owns this many of its elements, kFewThreads apart.
inline constexpr uint32_t kFewOwned = 2, kFewHeadDim = kFewOwned * kFewThreads;

HGA_BOTH uint32_t FewPadded(uint32_t head_dim) { return (head_dim + 7) / 8 * 8; }
// Rows are an odd number of 16 bytes long, so that threads that read a row each hit different banks.
HGA_BOTH uint32_t FewStride(uint32_t head_dim) { return FewPadded(head_dim) + (FewPadded(head_dim) % 16 == 0 ? 8 : 0); }

struct FewShared {
  KeyList<kFewKeys> list;
  float weights[kFewQueries][kFewKeys];
  float keep[kFewQueries], other[kFewQueries];
  // Behind it: queries [kFewQueries][padded] float, keys and values [kFewKeys][stride] bf16.
};
HGA_BOTH uint32_t FewSharedBytes(uint32_t head_dim) {
  return static_cast<uint32_t>(sizeof(FewShared)) + kFewQueries * FewPadded(head_dim) * 4 +
         2 * kFewKeys * FewStride(head_dim) * 2;
}
static_assert(FewSharedBytes(kFewHeadDim) <= 48 * 1024, "what a block may have without asking");

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
