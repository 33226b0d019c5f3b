// Highway kernels for K/V of int8 (common/kv/kv_rows.h), read where it lies. Dispatched at run time; the same bits
// whatever the number of threads.
//
// For a decoding row queries and weights are rounded to 16 bits, so that a product of 16 bits by 8 and the sum of two
// of them are one instruction, and exact. What that rounds is less than a hundredth of what int8 has rounded.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_INT8_ROWS_H_
#define HGA_GPU_WORKER_BACKEND_CPU_INT8_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gpu_worker/backend/cpu/row_kernels.h"

namespace hga {

// Queries of one KV head, rounded.
struct Int8Queries {
  std::vector<int16_t> codes;  // [count][head_pad], zero behind head_dim
  std::vector<float> scales;   // [count]
};
// queries: [count][head_pad], zero behind head_dim.
void RoundQueries(const float* queries, uint32_t count, uint32_t head_pad, Int8Queries* out);

// Some keys and values that a decoding row sees: at most kRowsAtATime, pointers behind `count` are of some row as well.
struct Int8Rows {
  uint32_t count = 0;
  const void* const* k = nullptr;     // of each token its K, with V and scales behind it
  const void* const* next = nullptr;  // likewise, which are fetched meanwhile
};

// scores[q][j] = queries[first + q] . k[j], for `count` queries, at most kTileQueries. scores: as for TileScores.
void Int8RowScores(const Int8Queries& queries, uint32_t first, uint32_t count, const Int8Rows& rows, uint32_t head_dim,
                   uint32_t head_pad, float* scores);
// o[q] = o[q] * keep[q] + sum over j of weights[q][j] * v[j]. weights, o: as for RowValues; weights are zero behind
// rows.count up to a multiple of 8.
void Int8RowValues(const float* weights, const float* keep, uint32_t count, const Int8Rows& rows, uint32_t head_dim,
                   uint32_t head_pad, float* o);

// As floats, `rows` rows whose codes and scales lie `stride` bytes apart, to `out`, `out_stride` floats apart.
void Int8RowsToFloats(const void* codes, const uint8_t* scales, size_t stride, uint32_t rows, uint32_t head_dim,
                      size_t out_stride, float* out);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_INT8_ROWS_H_
