// Products of quantised weights in integers (Highway, dispatched at run time): activations are rounded to 16 bits, so
// that what rounding costs is below bf16's, and blocks of weights are multiplied as they are, never as floats.
//
// A block of 32 weights is q[i] * scale + offset with 13-bit q. The sum of q * x of a block is exact in 32 bits; sums
// of blocks are added in float, in the order of the blocks. Every row of x has the same bits whoever else is in the
// batch and whatever the number of threads.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_INTEGER_GEMM_H_
#define HGA_GPU_WORKER_BACKEND_CPU_INTEGER_GEMM_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gpu_worker/model/weights.h"

namespace hga {

// Weights that share a scale, once the scales of larger blocks are multiplied out.
inline constexpr uint32_t kIntegerBlock = 32;

// Whether the type, and rows of so many columns, can be multiplied here.
bool HasIntegerGemm(TensorType type, uint32_t cols);

// Largest rounded activation whose products with such weights, 32 of them, add up within 32 bits: 4096 (of Q6_K) *
// 16383 * 32, 128 (of Q8_0) * 32767 * 32.
float LargestActivation(TensorType type);

// Rows of activations in 16 bits: x[i] is about values[i] * scale of its 32.
class RoundedRows {
 public:
  // Room for [rows][cols], cols a multiple of kIntegerBlock; then each row is to be set. most: of a value's size, the
  // LargestActivation of all weights that will be multiplied.
  void Resize(uint32_t rows, uint32_t cols, float most);
  // x: [cols]. Several rows at a time may be set, by a thread each. What is not finite makes its products not finite.
  void SetRow(uint32_t row, const float* x);

  uint32_t rows() const { return rows_; }
  uint32_t cols() const { return cols_; }
  uint32_t blocks() const { return cols_ / kIntegerBlock; }
  // Of row r.
  const int16_t* values(uint32_t r) const { return values_[size_t{r} * blocks()].of; }
  const float* scales(uint32_t r) const { return &scales_[size_t{r} * blocks()]; }
  // Sum of each block's x.
  const float* sums(uint32_t r) const { return &sums_[size_t{r} * blocks()]; }

 private:
  // A cache line: what is loaded at a time never lies in two.
  struct Block {
    alignas(64) int16_t of[kIntegerBlock];
  };

  uint32_t rows_ = 0, cols_ = 0;
  float most_ = 0;
  std::vector<Block> values_;
  std::vector<float> scales_, sums_;
};

// Rows of x, and where what they give goes: y[r * stride + o] for the r-th of the rows and the o-th of the outputs.
struct IntegerProduct {
  const RoundedRows* x = nullptr;
  uint32_t first_row = 0, rows = 0;
  size_t stride = 0;
};

// y = w[first + o] . x for o < count. For few rows: each weight is read once for four of them.
void IntegerGemv(const TensorView& w, uint32_t first, uint32_t count, const IntegerProduct& product, float* y);

// The same for many rows: weights are unpacked in panels that stay in the cache while all rows pass. One thread;
// callers share out the outputs.
void IntegerGemm(const TensorView& w, uint32_t first, uint32_t count, const IntegerProduct& product, float* y);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_INTEGER_GEMM_H_
