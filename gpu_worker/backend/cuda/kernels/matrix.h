// Products with weight matrices: GEMV for few rows, tensor-core tiles for many, and weights made bf16.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_MATRIX_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_MATRIX_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {

// Side of the FP8 tiles that share a scale.
inline constexpr uint32_t kScaleSide = 128;

// One expert's matrix of a part.
struct OneMatrix {
  const uint8_t* data;
  const float* scales;
  uint32_t scale_cols;
  MatrixType type;
};

HGA_DEVICE OneMatrix MatrixOf(const MatrixPart& part, uint32_t cols, uint32_t expert) {
  const uint32_t scale_cols = (cols + kScaleSide - 1) / kScaleSide;
  const size_t scales = size_t{(part.outputs + kScaleSide - 1) / kScaleSide} * scale_cols;
  const size_t bytes = size_t{part.outputs} * cols * (part.type == MatrixType::kBf16 ? 2 : 1);
  return {static_cast<const uint8_t*>(part.data) + expert * bytes,
          part.scales == nullptr ? nullptr : part.scales + expert * scales, scale_cols, part.type};
}

HGA_DEVICE float ScaleAt(const OneMatrix& w, uint32_t output, uint32_t col) {
  return w.scales[size_t{output / kScaleSide} * w.scale_cols + col / kScaleSide];
}

HGA_DEVICE float WeightAt(const OneMatrix& w, uint32_t cols, uint32_t output, uint32_t col) {
  const size_t at = size_t{output} * cols + col;
  if (w.type == MatrixType::kBf16) return Widen(reinterpret_cast<const bf16*>(w.data)[at]);
  return WidenF8(w.data[at]) * ScaleAt(w, output, col);
}

// What a warp of the GEMV multiplies: `outputs` rows of one matrix with `rows` rows of x, which lie `cols` apart; of
// chunks of kScaleSide columns, every `split`-th from `share` on.
struct GemvWarp {
  const uint8_t* weights[kGemvOutputs];  // behind the last output: its again
  const float* scales;                   // of their row of tiles, for FP8
  const float* x;
  uint32_t outputs, rows, cols, split, share;
};

// Four weights of a lane: kWords bytes each.
HGA_DEVICE Floats<4> WidenFour(const Words<1>& f8) { return WidenF8s(f8.word[0]); }
HGA_DEVICE Floats<4> WidenFour(const Words<2>& bf16s) {
  Floats<4> four;
  HGA_UNROLL
  for (uint32_t i = 0; i < 4; ++i) four.at[i] = Bf16At(bf16s, i);
  return four;
}

// A lane's four columns of a chunk: a warp reads both weights and x without a gap. What is not there is read as
// something that is: nobody looks at outputs beyond the last, and columns beyond are multiplied with zero.
template <uint32_t kWords>
struct GemvChunk {
  Words<kWords> words[kGemvOutputs];
  Floats<4> x;  // of the first row
  float scale;
};

HGA_DEVICE Floats<4> GemvInput(const GemvWarp& b, uint32_t row, uint32_t chunk) {
  const uint32_t col = chunk * kScaleSide + Lane() * 4;
  return col < b.cols ? *reinterpret_cast<const Floats<4>*>(b.x + size_t{row} * b.cols + col) : Floats<4>{};
}

template <uint32_t kWords>
HGA_DEVICE void LoadGemvChunk(const GemvWarp& b, uint32_t chunk, GemvChunk<kWords>* to) {
  const uint32_t col = chunk * kScaleSide + Lane() * 4, at = (col < b.cols ? col : 0) * kWords;
  HGA_UNROLL
  for (uint32_t i = 0; i < kGemvOutputs; ++i) {
    to->words[i] = *reinterpret_cast<const Words<kWords>*>(b.weights[i] + at);
  }
  to->x = GemvInput(b, 0, chunk);
  to->scale = kWords == 1 ? b.scales[chunk] : 1.0f;
}

template <uint32_t kWords, uint32_t kRows>
HGA_DEVICE void AddGemvChunk(const GemvWarp& b, uint32_t chunk, const GemvChunk<kWords>& from,
                             float sums[kGemvOutputs * kRows]) {
  Floats<4> weights[kGemvOutputs];
  HGA_UNROLL
  for (uint32_t i = 0; i < kGemvOutputs; ++i) weights[i] = WidenFour(from.words[i]);
  HGA_UNROLL
  for (uint32_t r = 0; r < kRows; ++r) {
    if (r >= b.rows) break;
    const Floats<4> x = r == 0 ? from.x : GemvInput(b, r, chunk);
    HGA_UNROLL
    for (uint32_t i = 0; i < kGemvOutputs; ++i) {
      const float* w = weights[i].at;
      const float dot = w[0] * x.at[0] + w[1] * x.at[1] + w[2] * x.at[2] + w[3] * x.at[3];
      sums[i * kRows + r] += dot * from.scale;
    }
  }
}

// Some chunks are asked for before the first of them is used.
template <uint32_t kWords, uint32_t kRows>
HGA_DEVICE void MultiplyGemv(const GemvWarp& b, float sums[kGemvOutputs * kRows]) {
  constexpr uint32_t kAhead = kRows == 1 ? 4 : 2;
  const uint32_t chunks = (b.cols + kScaleSide - 1) / kScaleSide;
  for (uint32_t first = b.share; first < chunks; first += b.split * kAhead) {
    GemvChunk<kWords> ahead[kAhead];
    HGA_UNROLL
    for (uint32_t i = 0; i < kAhead; ++i) {
      if (first + i * b.split < chunks) LoadGemvChunk(b, first + i * b.split, &ahead[i]);
    }
    HGA_UNROLL
    for (uint32_t i = 0; i < kAhead; ++i) {
      if (first + i * b.split < chunks) AddGemvChunk<kWords, kRows>(b, first + i * b.split, ahead[i], sums);
    }
  }
}

// The part that has output *output of all; makes it the part's.
HGA_DEVICE const MatrixPart& PartOfOutput(const MatrixParts& w, uint32_t* output) {
  uint32_t p = 0;
  while (*output >= w.part[p].outputs) *output -= w.part[p++].outputs;
  return w.part[p];
}

// The same, weight by weight, for outputs of several matrices and for rows that are no whole number of words.
template <uint32_t kRows>
HGA_DEVICE void MultiplyGemvAnyhow(const GemvArgs& a, const GemvWarp& b, uint32_t first_output, uint32_t expert,
                                   float sums[kGemvOutputs * kRows]) {
  HGA_UNROLL
  for (uint32_t i = 0; i < kGemvOutputs; ++i) {
    uint32_t output = Least(first_output + i, a.w.outputs - 1);
    const OneMatrix w = MatrixOf(PartOfOutput(a.w, &output), b.cols, expert);
    for (uint32_t col = b.share * kWarp + Lane(); col < b.cols; col += b.split * kWarp) {
      const float weight = WeightAt(w, b.cols, output, col);
      HGA_UNROLL
      for (uint32_t r = 0; r < kRows; ++r) {
        if (r < b.rows) sums[i * kRows + r] += weight * b.x[size_t{r} * b.cols + col];
      }
    }
  }
}

// Adds up the sums of all lanes and, in shared memory, of the warps that share out the columns.
template <uint32_t kRows>
HGA_DEVICE void StoreGemv(const GemvArgs& a, const GemvWarp& b, float sums[kGemvOutputs * kRows], float* y) {
  constexpr uint32_t kSums = kGemvOutputs * kRows, kOfSum = kWarp / kSums;
  float* of_warp = reinterpret_cast<float*>(SharedMemory()) + Warp() * kSums;
  const uint32_t index = IndexOfSum<kSums, kWarp>(), output = index / kRows, r = index % kRows;
  float sum = SumApart<kSums, kWarp>(sums);
  if (b.split > 1) {
    if (Lane() % kOfSum == 0) of_warp[index] = sum;
    __syncthreads();
    if (b.share != 0) return;
    for (uint32_t w = 1; w < b.split; ++w) sum += of_warp[w * kSums + index];
  }
  if (Lane() % kOfSum != 0 || output >= b.outputs || r >= b.rows) return;
  float& to = y[size_t{r} * a.w.outputs + output];
  to = a.add ? to + sum : sum;
}

template <uint32_t kRows>
HGA_DEVICE void RunGemv(const GemvArgs& a, uint32_t first_row, uint32_t rows) {
  const uint32_t expert = a.expert_of == nullptr ? 0 : a.expert_of[first_row];
  const uint32_t first = (blockIdx.x * (kGemvWarps / a.split) + Warp() / a.split) * kGemvOutputs;
  uint32_t output = first < a.w.outputs ? first : 0;  // warps beyond have nothing to do but to wait for the others
  const MatrixPart& part = PartOfOutput(a.w, &output);
  const OneMatrix w = MatrixOf(part, a.w.cols, expert);
  GemvWarp b;
  b.outputs = first < a.w.outputs ? Least(kGemvOutputs, a.w.outputs - first) : 0;
  b.rows = rows;
  b.cols = b.outputs > 0 ? a.w.cols : 0;
  b.split = a.split;
  b.share = Warp() % a.split;
  HGA_UNROLL
  for (uint32_t i = 0; i < kGemvOutputs; ++i) {
    const uint32_t row = Least(output + i, part.outputs - 1);
    b.weights[i] = w.data + size_t{row} * a.w.cols * (w.type == MatrixType::kBf16 ? 2 : 1);
  }
  b.scales = w.scales == nullptr ? nullptr : w.scales + size_t{output / kScaleSide} * w.scale_cols;
  b.x = a.x + size_t{first_row / a.share} * b.cols;
  // Four outputs from a multiple of four on have one row of scales.
  const bool whole = b.cols % 4 == 0 && output % kGemvOutputs == 0 && output + b.outputs <= part.outputs;
  float sums[kGemvOutputs * kRows] = {};
  if (!whole) {
    MultiplyGemvAnyhow<kRows>(a, b, first, expert, sums);
  } else if (w.type == MatrixType::kBf16) {
    MultiplyGemv<2, kRows>(b, sums);
  } else {
    MultiplyGemv<1, kRows>(b, sums);
  }
  StoreGemv<kRows>(a, b, sums, a.y + size_t{first_row} * a.w.outputs + first);
}

// Shared memory: kGemvSharedBytes.
HGA_DEVICE void Run(const GemvArgs& a) {
  const uint32_t at_once = a.expert_of == nullptr ? kGemvRows : 1;
  const uint32_t first = blockIdx.y * at_once, rows = Least(at_once, a.rows - first);
  if (rows == 1) {
    RunGemv<1>(a, first, rows);
  } else {
    RunGemv<kGemvRows>(a, first, rows);
  }
}

HGA_DEVICE void Run(const DequantizeArgs& a) {
  const OneMatrix w = MatrixOf(a.w, a.cols, 0);
  const uint64_t count = uint64_t{a.w.outputs} * a.cols;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += uint64_t{gridDim.x} * blockDim.x) {
    a.out[i] = Narrow(WeightAt(w, a.cols, static_cast<uint32_t>(i / a.cols), static_cast<uint32_t>(i % a.cols)));
  }
}

// What a block of TileGemm multiplies.
struct GemmTile {
  ExpertTile rows;
  OneMatrix w;
  uint32_t first_output, outputs;  // in the part
  uint32_t y_offset;               // of the part's first output in a row of y
};

HGA_DEVICE uint32_t RowOfTile(const TileGemmArgs& a, const GemmTile& tile, uint32_t i) {
  const uint32_t at = tile.rows.first + i;
  return a.tiles == nullptr ? at : a.order[at];
}

HGA_DEVICE void LoadInputTile(const TileGemmArgs& a, const GemmTile& tile, uint32_t first_col, bf16* to) {
  const uint32_t cols = a.w.cols;
  for (uint32_t i = threadIdx.x; i < kGemmTileRows * kGemmTileCols / 8; i += kGemmThreads) {
    const uint32_t row = i / (kGemmTileCols / 8), col = i % (kGemmTileCols / 8) * 8;
    bf16* out = to + row * kGemmStride + col;
    const bool there = row < tile.rows.rows;
    const bf16* in = a.x + (there ? size_t{RowOfTile(a, tile, row) / a.share} * cols : 0);
    if (there && cols % 8 == 0 && first_col + col < cols) {
      *reinterpret_cast<Bytes16*>(out) = *reinterpret_cast<const Bytes16*>(in + first_col + col);
      continue;
    }
    for (uint32_t j = 0; j < 8; ++j) {
      const uint32_t c = first_col + col + j;
      out[j] = there && c < cols ? in[c] : bf16{0};
    }
  }
}

HGA_DEVICE void LoadWeightTile(const GemmTile& tile, uint32_t cols, uint32_t first_col, bf16* to) {
  for (uint32_t i = threadIdx.x; i < kGemmTileOutputs * kGemmTileCols / 16; i += kGemmThreads) {
    const uint32_t row = i / (kGemmTileCols / 16), col = i % (kGemmTileCols / 16) * 16;
    bf16* out = to + row * kGemmStride + col;
    const uint32_t output = tile.first_output + row, c = first_col + col;
    const bool whole = output < tile.outputs && cols % 16 == 0 && c < cols;
    if (whole && tile.w.type == MatrixType::kBf16) {
      const auto* in = reinterpret_cast<const Bytes16*>(tile.w.data + (size_t{output} * cols + c) * 2);
      reinterpret_cast<Bytes16*>(out)[0] = in[0];
      reinterpret_cast<Bytes16*>(out)[1] = in[1];
    } else if (whole) {
      const Bytes16 bytes = *reinterpret_cast<const Bytes16*>(tile.w.data + size_t{output} * cols + c);
      const float scale = ScaleAt(tile.w, output, c);
      HGA_UNROLL
      for (uint32_t j = 0; j < 16; ++j) out[j] = Narrow(F8At(bytes, j) * scale);
    } else {
      for (uint32_t j = 0; j < 16; ++j) {
        const bool there = output < tile.outputs && c + j < cols;
        out[j] = there ? Narrow(WeightAt(tile.w, cols, output, c + j)) : bf16{0};
      }
    }
  }
}

HGA_DEVICE void StoreOutputTile(const TileGemmArgs& a, const GemmTile& tile, const float* from) {
  for (uint32_t i = threadIdx.x; i < kGemmTileRows * kGemmTileOutputs; i += kGemmThreads) {
    const uint32_t row = i / kGemmTileOutputs, output = tile.first_output + i % kGemmTileOutputs;
    if (row >= tile.rows.rows || output >= tile.outputs) continue;
    a.y[size_t{RowOfTile(a, tile, row)} * a.w.outputs + tile.y_offset + output] = from[i];
  }
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

// Four warps, each 16 outputs wide and the tile's rows high. Shared memory: kTileGemmSharedBytes.
HGA_DEVICE void Run(const TileGemmArgs& a) {
  if (a.tiles != nullptr && blockIdx.y >= *a.tile_count) return;
  const uint32_t first = blockIdx.y * kGemmTileRows;
  const GemmTile tile = OutputsOfTile(
      a, blockIdx.x,
      a.tiles != nullptr ? a.tiles[blockIdx.y] : ExpertTile{0, first, Least(kGemmTileRows, a.rows - first)});
  bf16* x = reinterpret_cast<bf16*>(SharedMemory());
  bf16* w = x + kGemmTileRows * kGemmStride;
  TileC sums[kGemmTileRows / 16];
  HGA_UNROLL
  for (uint32_t i = 0; i < kGemmTileRows / 16; ++i) ClearTile(&sums[i]);
  for (uint32_t c = 0; c < a.w.cols; c += kGemmTileCols) {
    __syncthreads();
    LoadInputTile(a, tile, c, x);
    LoadWeightTile(tile, a.w.cols, c, w);
    __syncthreads();
    HGA_UNROLL
    for (uint32_t k = 0; k < kGemmTileCols; k += 16) {
      TileBt right;
      LoadTile(&right, w + Warp() * 16 * kGemmStride + k, kGemmStride);
      HGA_UNROLL
      for (uint32_t i = 0; i < kGemmTileRows / 16; ++i) {
        TileA left;
        LoadTile(&left, x + i * 16 * kGemmStride + k, kGemmStride);
        MultiplyTiles(left, right, &sums[i]);
      }
    }
  }
  __syncthreads();
  float* out = reinterpret_cast<float*>(SharedMemory());
  HGA_UNROLL
  for (uint32_t i = 0; i < kGemmTileRows / 16; ++i) {
    StoreTile(out + i * 16 * kGemmTileOutputs + Warp() * 16, sums[i], kGemmTileOutputs);
  }
  __syncthreads();
  StoreOutputTile(a, tile, out);
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_MATRIX_H_
