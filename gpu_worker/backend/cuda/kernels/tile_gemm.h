// Products with weight matrices for many rows, on tensor cores: experts, and all where there is no library.
//
// An expert of a prompt's batch has few rows, so that its weights are used as fast as memory gives them: they go from
// there into the registers of the one warp that needs them, a step ahead, and are made bf16 just before they are
// multiplied.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_TILE_GEMM_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_TILE_GEMM_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/matrix.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {

// What a block multiplies.
struct GemmTile {
  ExpertTile rows;
  OneMatrix w;
  uint32_t first_output, outputs;  // in the part
  uint32_t y_offset;               // of the part's first output in a row of y
};

// A step is kGemmTileCols columns, in units of 64. In a unit, a lane has 16 consecutive columns, by Lane() % 4: four
// for each product. So the products' inner dimension is in another order than the columns, the same on both sides.
inline constexpr uint32_t kGemmUnitCols = 64, kGemmUnits = kGemmTileCols / kGemmUnitCols;
inline constexpr uint32_t kGemmLefts = kGemmTileRows / 16;  // products' rows in a tile
inline constexpr uint32_t kGemmRowsApart = kGemmThreads * 8 / kGemmTileCols;
inline constexpr uint32_t kGemmLoads = kGemmTileRows / kGemmRowsApart;

// How weights lie: 16 columns of a lane are 16 bytes of FP8, or 32 of bf16, or are, in shapes that are no whole units,
// read one by one.
enum class GemmWeights { kF8, kBf16, kAny };

// A lane's weights of a step: of two outputs, 8 apart.
struct GemmRaw {
  Bytes16 part[2][kGemmUnits][2];
};

struct GemmSums {
  Sums4 at[kGemmLefts][2];
};

// The input's rows that a thread brings, kGemmRowsApart apart; nullptr: there is none.
struct GemmInput {
  const bf16* row[kGemmLoads];
};

HGA_DEVICE uint32_t RowOfTile(const TileGemmArgs& a, const GemmTile& tile, uint32_t i) {
  const uint32_t at = tile.rows.first + i;
  return a.tiles == nullptr ? at : a.order[at];
}

// Which part, and which of its outputs, column `tile_x` of the grid is.
HGA_DEVICE GemmTile OutputsOfTile(const TileGemmArgs& a, uint32_t tile_x, const ExpertTile& rows) {
  GemmTile tile;
  tile.rows = rows;
  tile.y_offset = 0;
  uint32_t p = 0;
  for (;; ++p) {
    const uint32_t tiles = (a.w.part[p].outputs + kGemmTileOutputs - 1) / kGemmTileOutputs;
    if (tile_x < tiles) break;
    tile_x -= tiles;
    tile.y_offset += a.w.part[p].outputs;
  }
  tile.w = MatrixOf(a.w.part[p], a.w.cols, rows.expert);
  tile.first_output = tile_x * kGemmTileOutputs;
  tile.outputs = a.w.part[p].outputs;
  return tile;
}

HGA_DEVICE GemmInput InputOfTile(const TileGemmArgs& a, const GemmTile& tile) {
  GemmInput in;
  HGA_UNROLL
  for (uint32_t i = 0; i < kGemmLoads; ++i) {
    const uint32_t row = threadIdx.x / (kGemmTileCols / 8) + i * kGemmRowsApart;
    in.row[i] = row < tile.rows.rows ? a.x + size_t{RowOfTile(a, tile, row) / a.share} * a.w.cols : nullptr;
  }
  return in;
}

// Brings a step of the input; zeros where there is none.
HGA_DEVICE void CopyGemmInput(const GemmInput& in, uint32_t cols, uint32_t step, bf16* to) {
  const uint32_t in_step = threadIdx.x % (kGemmTileCols / 8) * 8, c = step * kGemmTileCols + in_step;
  HGA_UNROLL
  for (uint32_t i = 0; i < kGemmLoads; ++i) {
    bf16* out = to + (threadIdx.x / (kGemmTileCols / 8) + i * kGemmRowsApart) * kGemmStride + in_step;
    if (in.row[i] != nullptr && cols % 8 == 0 && c < cols) {
      CopyLater(out, in.row[i] + c);
      continue;
    }
    for (uint32_t j = 0; j < 8; ++j) out[j] = in.row[i] != nullptr && c + j < cols ? in.row[i][c + j] : bf16{0};
  }
}

template <GemmWeights kKind>
HGA_DEVICE void LoadGemmWeights(const GemmTile& tile, uint32_t cols, uint32_t step, GemmRaw* raw) {
  HGA_UNROLL
  for (uint32_t n = 0; n < 2; ++n) {
    // Outputs beyond the last one are made of its weights, and not stored.
    const uint32_t output = Least(tile.first_output + Warp() * 16 + n * 8 + Lane() / 4, tile.outputs - 1);
    HGA_UNROLL
    for (uint32_t u = 0; u < kGemmUnits; ++u) {
      const uint32_t c = step * kGemmTileCols + u * kGemmUnitCols + Lane() % 4 * 16;
      Bytes16* to = raw->part[n][u];
      to[0] = to[1] = Bytes16{};
      if (kKind == GemmWeights::kAny) {
        for (uint32_t i = 0; i < 16 && c + i < cols; ++i) {
          const uint32_t bits = Narrow(WeightAt(tile.w, cols, output, c + i)).bits;
          to[i / 8].word[i % 8 / 2] |= bits << (i % 2 * 16);
        }
      } else if (c < cols) {
        const size_t at = size_t{output} * cols + c;
        if (kKind == GemmWeights::kF8) {
          to[0] = *reinterpret_cast<const Bytes16*>(tile.w.data + at);
        } else {
          to[0] = reinterpret_cast<const Bytes16*>(tile.w.data + at * 2)[0];
          to[1] = reinterpret_cast<const Bytes16*>(tile.w.data + at * 2)[1];
        }
      }
    }
  }
}

// Of product `block` of a unit, both outputs'.
template <GemmWeights kKind>
HGA_DEVICE RightWords GemmRight(const GemmRaw& raw, uint32_t unit, uint32_t block) {
  RightWords right;
  HGA_UNROLL
  for (uint32_t n = 0; n < 2; ++n) {
    if (kKind == GemmWeights::kF8) {
      WidenF8Words(raw.part[n][unit][0].word[block], &right.x[2 * n], &right.x[2 * n + 1]);
    } else {
      right.x[2 * n] = raw.part[n][unit][block / 2].word[block % 2 * 2];
      right.x[2 * n + 1] = raw.part[n][unit][block / 2].word[block % 2 * 2 + 1];
    }
  }
  return right;
}

// sums += what the step adds. x: [kGemmTileRows][kGemmStride].
template <GemmWeights kKind>
HGA_DEVICE void MultiplyGemmStep(const bf16* x, const GemmRaw& raw, GemmSums* sums) {
  HGA_UNROLL
  for (uint32_t u = 0; u < kGemmUnits; ++u) {
    HGA_UNROLL
    for (uint32_t pair = 0; pair < 2; ++pair) {  // products side by side in 16 bytes of the input
      const RightWords right[2] = {GemmRight<kKind>(raw, u, 2 * pair), GemmRight<kKind>(raw, u, 2 * pair + 1)};
      HGA_UNROLL
      for (uint32_t i = 0; i < kGemmLefts; ++i) {
        const bf16* at = x + (i * 16 + Lane() / 4) * kGemmStride + u * kGemmUnitCols + Lane() % 4 * 16 + pair * 8;
        const Bytes16 upper = *reinterpret_cast<const Bytes16*>(at);
        const Bytes16 lower = *reinterpret_cast<const Bytes16*>(at + 8 * kGemmStride);
        HGA_UNROLL
        for (uint32_t b = 0; b < 2; ++b) {
          const LeftWords left = {{upper.word[2 * b], lower.word[2 * b], upper.word[2 * b + 1], lower.word[2 * b + 1]}};
          MultiplyWords(left, right[b], 0, &sums->at[i][0]);
          MultiplyWords(left, right[b], 1, &sums->at[i][1]);
        }
      }
    }
  }
}

// Of FP8, a step's columns and the tile's outputs share a scale.
HGA_DEVICE void AddScaled(const GemmSums& step, float scale, GemmSums* sums) {
  HGA_UNROLL
  for (uint32_t i = 0; i < kGemmLefts; ++i) {
    HGA_UNROLL
    for (uint32_t n = 0; n < 2; ++n) {
      HGA_UNROLL
      for (uint32_t e = 0; e < 4; ++e) sums->at[i][n].x[e] = fmaf(step.at[i][n].x[e], scale, sums->at[i][n].x[e]);
    }
  }
}

// x: two steps of the input, which take turns.
template <GemmWeights kKind>
HGA_DEVICE void MultiplyTile(const TileGemmArgs& a, const GemmTile& tile, bf16* x, GemmSums* sums) {
  static_assert(kGemmTileCols == kScaleSide && kScaleSide % kGemmTileOutputs == 0, "one scale for a step");
  constexpr uint32_t kStage = kGemmTileRows * kGemmStride;
  const uint32_t cols = a.w.cols, steps = (cols + kGemmTileCols - 1) / kGemmTileCols;
  const GemmInput in = InputOfTile(a, tile);
  GemmRaw raw, next;
  LoadGemmWeights<kKind>(tile, cols, 0, &raw);
  CopyGemmInput(in, cols, 0, x);
  for (uint32_t step = 0; step < steps; ++step) {
    WaitForCopies();
    __syncthreads();  // the step is there, and the one before it has been used
    if (step + 1 < steps) {
      LoadGemmWeights<kKind>(tile, cols, step + 1, &next);
      CopyGemmInput(in, cols, step + 1, x + (step + 1) % 2 * kStage);
    }
    if (kKind == GemmWeights::kF8) {
      GemmSums of_step = {};
      MultiplyGemmStep<kKind>(x + step % 2 * kStage, raw, &of_step);
      AddScaled(of_step, ScaleAt(tile.w, tile.first_output, step * kGemmTileCols), sums);
    } else {
      MultiplyGemmStep<kKind>(x + step % 2 * kStage, raw, sums);
    }
    raw = next;
  }
}

HGA_DEVICE void StoreTile(const TileGemmArgs& a, const GemmTile& tile, const GemmSums& sums) {
  HGA_UNROLL
  for (uint32_t i = 0; i < 2 * kGemmLefts; ++i) {
    const uint32_t row = i * 8 + Lane() / 4;
    if (row >= tile.rows.rows) continue;
    float* y = a.y + size_t{RowOfTile(a, tile, row)} * a.w.outputs + tile.y_offset;
    HGA_UNROLL
    for (uint32_t e = 0; e < 4; ++e) {
      const uint32_t output = tile.first_output + Warp() * 16 + e / 2 * 8 + Lane() % 4 * 2 + e % 2;
      if (output < tile.outputs) y[output] = sums.at[i / 2][e / 2].x[i % 2 * 2 + e % 2];
    }
  }
}

// Four warps, each 16 outputs wide and the tile's rows high. Shared memory: kTileGemmSharedBytes.
HGA_DEVICE void Run(const TileGemmArgs& a) {
  if (a.tiles != nullptr && blockIdx.y >= *a.tile_count) return;
  const uint32_t first = blockIdx.y * kGemmTileRows;
  const GemmTile tile = OutputsOfTile(
      a, blockIdx.x,
      a.tiles != nullptr ? a.tiles[blockIdx.y] : ExpertTile{0, first, Least(kGemmTileRows, a.rows - first)});
  bf16* x = reinterpret_cast<bf16*>(SharedMemory());
  GemmSums sums = {};
  if (a.w.cols % kGemmUnitCols != 0) {
    MultiplyTile<GemmWeights::kAny>(a, tile, x, &sums);
  } else if (tile.w.type == MatrixType::kF8E4M3) {
    MultiplyTile<GemmWeights::kF8>(a, tile, x, &sums);
  } else {
    MultiplyTile<GemmWeights::kBf16>(a, tile, x, &sums);
  }
  StoreTile(a, tile, sums);
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_TILE_GEMM_H_
