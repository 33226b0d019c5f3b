// What blocks of the kernels keep in shared memory, and its size: the host must ask for as much.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_SHARED_LAYOUT_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_SHARED_LAYOUT_H_

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
// Elements from row to row of the tiles: eight more than needed, against bank conflicts.
inline constexpr uint32_t kGemmStride = kGemmTileCols + 8;
inline constexpr uint32_t kGemmInBytes = (kGemmTileRows + kGemmTileOutputs) * kGemmStride * 2;
inline constexpr uint32_t kGemmOutBytes = kGemmTileRows * kGemmTileOutputs * 4;
inline constexpr uint32_t kTileGemmSharedBytes = kGemmInBytes > kGemmOutBytes ? kGemmInBytes : kGemmOutBytes;

// --- TopLogits ---
inline constexpr uint32_t kTopSharedBytes = (kTopSlice + kTopThreads / 32) * sizeof(TokenLogit);

// --- LogitMass ---
inline constexpr uint32_t kLogitMassSharedBytes = kTopThreads / 32 * sizeof(uint64_t);

// --- Selection ---
// Of a table of sums of signed channels: seven bits, as common/kv/sketch.h's readers have them.
inline constexpr float kRouteLargestEntry = 127, kRouteLargestQuery = 32767;
inline constexpr uint32_t kRouteBins = 2048;
struct RouteCutShared {
  uint32_t bins[kRouteBins], sums[kRouteRowThreads];
  uint32_t digit, above, enough;
};
inline constexpr uint32_t kRouteSoftmaxSharedBytes = (kRouteTile + kRouteRowThreads / 32) * 4;
HGA_BOTH uint32_t RouteTablesSharedBytes(uint32_t head_dim) { return head_dim * 9; }
HGA_BOTH uint32_t RouteFineSharedBytes(uint32_t head_dim, uint32_t per_head) {
  return (per_head + 3) / 4 * (head_dim / 4) * 16 * 4;
}

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
HGA_BOTH uint32_t FewSharedBytes(uint32_t /*head_dim*/) { return static_cast<uint32_t>(sizeof(FewShared)); }
static_assert(sizeof(FewShared) <= 24 * 1024, "four blocks to a multiprocessor, on every architecture");

inline constexpr uint32_t kManyScoreStride = kManyKeys + 4, kManyWeightStride = kManyKeys + 8;
HGA_BOTH bool ManyTakes(uint32_t head_dim) { return head_dim % 16 == 0 && head_dim <= kManyHeadDim; }
HGA_BOTH uint32_t ManyStride(uint32_t head_dim) { return head_dim + 8; }
HGA_BOTH uint32_t ManySumStride(uint32_t head_dim) { return head_dim + 4; }

// In this order, each part a multiple of 32 bytes.
struct ManyBlock {
  KeyList<kManyKeys>* list;
  float* keep;    // [kManyQueries]
  bf16* queries;  // [kManyQueries][ManyStride]
  bf16* keys;     // [kManyKeys][ManyStride]
  bf16* values;   // [kManyKeys][ManyStride]
  float* scores;  // [kManyQueries][kManyScoreStride]
  bf16* weights;  // [kManyQueries][kManyWeightStride]
  float* sums;    // [kManyQueries][ManySumStride]
};
HGA_BOTH uint32_t ManySharedBytes(uint32_t head_dim) {
  return static_cast<uint32_t>(sizeof(KeyList<kManyKeys>)) + kManyQueries * 4 +
         (kManyQueries + 2 * kManyKeys) * ManyStride(head_dim) * 2 + kManyQueries * kManyScoreStride * 4 +
         kManyQueries * kManyWeightStride * 2 + kManyQueries * ManySumStride(head_dim) * 4;
}
static_assert(sizeof(KeyList<kManyKeys>) % 32 == 0, "tiles are read in units of 32 bytes");
static_assert(ManySharedBytes(kManyHeadDim) <= 99 * 1024, "what every architecture from sm_80 on has");

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_SHARED_LAYOUT_H_
