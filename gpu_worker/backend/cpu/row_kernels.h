// Highway kernels for a decoding row: few queries, so K and V are read where they lie, row by row, and never copied or
// transposed. Dispatched at run time; the same bits whatever the number of threads.
//
// Rows lie scattered over memory. `ahead` are rows [tokens] that are fetched from there meanwhile, a little beside each
// row that is computed: what is asked for at once would be waited for at once. Any rows of [head_dim] that can be read.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_ROW_KERNELS_H_
#define HGA_GPU_WORKER_BACKEND_CPU_ROW_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"
#include "gpu_worker/backend/cpu/kernels.h"

namespace hga {

inline constexpr uint32_t kMaxHeadDim = 256;
// Keys of a decoding row that are scored together. Their K and V, and the next K, stay in the first cache.
inline constexpr uint32_t kRowsAtATime = 32;

// scores[q][j] = queries[q] . k[j] for j < tokens. k: [tokens] rows of bf16 [head_dim]; queries, scores as for
// TileScores.
void RowScores(const float* queries, uint32_t count, const void* const* k, const void* const* ahead, uint32_t tokens,
               uint32_t head_dim, uint32_t head_pad, float* scores);
// o[q] = o[q] * keep[q] + sum over j of weights[q][j] * v[j]. v: [tokens] rows of bf16 [head_dim]; weights, o as for
// TileValues.
void RowValues(const float* weights, const float* keep, uint32_t count, const void* const* v, const void* const* ahead,
               uint32_t tokens, uint32_t head_dim, uint32_t head_pad, float* o);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_ROW_KERNELS_H_
