// Highway kernels of the CPU backend, dispatched at run time to what the CPU has. Each gives the same bits whatever
// the number of threads and whoever else is in the batch.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_KERNELS_H_
#define HGA_GPU_WORKER_BACKEND_CPU_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// Keys of one attention tile: four groups of 16.
inline constexpr uint32_t kTileKeys = 64;
// Query rows that one kernel call takes.
inline constexpr uint32_t kTileQueries = 4;
// Heads are padded to a multiple of this in scratch memory, so that kernels have no tails.
inline constexpr uint32_t kHeadPad = 64;

// As DequantizeTensorRow, vectorised for the common types. out: [cols].
void FastDequantizeTensorRow(const TensorView& tensor, uint32_t row, float* out);
// As DequantizeRow, vectorised for the common types.
void FastDequantizeRow(TensorType type, const uint8_t* row, uint32_t cols, float* out);

// dots[r] = row . x[r] for `rows` vectors x, r-th at x + r * x_stride.
void DotRows(const float* row, uint32_t cols, const float* x, size_t x_stride, uint32_t rows, float* dots);

void FloatsToBf16(const float* in, size_t count, bf16* out);
void Bf16ToFloats(const bf16* in, size_t count, float* out);

// out[i] = silu(gate[i]) * up[i]
void SiluMultiply(const float* gate, const float* up, size_t count, float* out);

// One step of the online softmax of one query: scores (already scaled and masked with -inf) become weights; returns by
// how much the old state must be multiplied. m, l: the query's maximum and sum so far.
float TileSoftmax(float* scores, uint32_t keys, float* m, float* l);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_KERNELS_H_
