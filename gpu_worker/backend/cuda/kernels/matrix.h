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

// sums[r] += this lane's part of row `output` times x[r]; rows of x lie `cols` apart.
HGA_DEVICE void DotBf16(const OneMatrix& w, uint32_t output, const float* x, uint32_t rows, uint32_t cols,
                        float* sums) {
  const auto* row = reinterpret_cast<const Bytes16*>(w.data + size_t{output} * cols * 2);
  for (uint32_t c = Lane(); c < cols / 8; c += kWarp) {
    const Bytes16 weights = row[c];
    HGA_UNROLL
    for (uint32_t r = 0; r < kGemvRows; ++r) {
      if (r >= rows) break;
      const float* to = x + size_t{r} * cols + c * 8;
      HGA_UNROLL
      for (uint32_t i = 0; i < 8; ++i) sums[r] += Bf16At(weights, i) * to[i];
    }
  }
}

HGA_DEVICE void DotF8(const OneMatrix& w, uint32_t output, const float* x, uint32_t rows, uint32_t cols, float* sums) {
  const auto* row = reinterpret_cast<const Bytes16*>(w.data + size_t{output} * cols);
  for (uint32_t c = Lane(); c < cols / 16; c += kWarp) {
    const Bytes16 bytes = row[c];
    const float scale = ScaleAt(w, output, c * 16);
    float weights[16];
    HGA_UNROLL
    for (uint32_t i = 0; i < 16; ++i) weights[i] = F8At(bytes, i) * scale;
    HGA_UNROLL
    for (uint32_t r = 0; r < kGemvRows; ++r) {
      if (r >= rows) break;
      const float* to = x + size_t{r} * cols + c * 16;
      HGA_UNROLL
      for (uint32_t i = 0; i < 16; ++i) sums[r] += weights[i] * to[i];
    }
  }
}

// The same for rows that are no whole number of 16 bytes.
HGA_DEVICE void DotAny(const OneMatrix& w, uint32_t output, const float* x, uint32_t rows, uint32_t cols, float* sums) {
  for (uint32_t c = Lane(); c < cols; c += kWarp) {
    const float weight = WeightAt(w, cols, output, c);
    HGA_UNROLL
    for (uint32_t r = 0; r < kGemvRows; ++r) {
      if (r < rows) sums[r] += weight * x[size_t{r} * cols + c];
    }
  }
}

// Sums of kGemvRows rows over the warp: each step halves the rows that a lane still adds up, so that it takes nine
// exchanges and not forty. Row RowOfLane() is left in sums[0]; the bits are WarpSum's.
HGA_DEVICE uint32_t RowOfLane() { return (Lane() >> 2 & 1) | (Lane() >> 3 & 1) << 1 | (Lane() >> 4 & 1) << 2; }
HGA_DEVICE void SumRows(float* sums) {
  static_assert(kGemvRows == 8, "three halvings");
  HGA_UNROLL
  for (uint32_t rows = kGemvRows / 2, step = kWarp / 2; rows > 0; rows /= 2, step /= 2) {
    const bool upper = (Lane() & step) != 0;
    HGA_UNROLL
    for (uint32_t r = 0; r < rows; ++r) {
      const float keep = upper ? sums[r + rows] : sums[r], give = upper ? sums[r] : sums[r + rows];
      sums[r] = keep + __shfl_xor_sync(kFullWarp, give, step);
    }
  }
  sums[0] += __shfl_xor_sync(kFullWarp, sums[0], 2u);
  sums[0] += __shfl_xor_sync(kFullWarp, sums[0], 1u);
}

HGA_DEVICE void Run(const GemvArgs& a) {
  const uint32_t output = blockIdx.x * kGemvOutputs + Warp();
  if (output >= a.w.outputs) return;
  uint32_t p = 0, in_part = output;
  while (in_part >= a.w.part[p].outputs) in_part -= a.w.part[p++].outputs;
  const uint32_t cols = a.w.cols, at_once = a.expert_of == nullptr ? kGemvRows : 1;
  const uint32_t first = blockIdx.y * at_once, rows = Least(at_once, a.rows - first);
  const OneMatrix w = MatrixOf(a.w.part[p], cols, a.expert_of == nullptr ? 0 : a.expert_of[first]);
  const float* x = a.x + size_t{first / a.share} * cols;
  float sums[kGemvRows] = {};
  if (w.type == MatrixType::kBf16 && cols % 8 == 0) {
    DotBf16(w, in_part, x, rows, cols, sums);
  } else if (w.type == MatrixType::kF8E4M3 && cols % 16 == 0) {
    DotF8(w, in_part, x, rows, cols, sums);
  } else {
    DotAny(w, in_part, x, rows, cols, sums);
  }
  float* y = a.y + size_t{first} * a.w.outputs + output;
  if (rows == 1) {
    const float sum = WarpSum(sums[0]);
    if (Lane() == 0) *y = sum;
    return;
  }
  SumRows(sums);
  if (Lane() % 4 == 0 && RowOfLane() < rows) y[size_t{RowOfLane()} * a.w.outputs] = sums[0];
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
