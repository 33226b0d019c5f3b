// Products with weight matrices for few rows, and weights made bf16. For many rows: tile_gemm.h.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_MATRIX_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_MATRIX_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"

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

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_MATRIX_H_
