// One row of any tensor as floats.
#ifndef HGA_GPU_WORKER_MODEL_TENSOR_ROW_H_
#define HGA_GPU_WORKER_MODEL_TENSOR_ROW_H_

#include <cstdint>

#include "gpu_worker/model/weights.h"

namespace hga {

// Side of the tiles of kF8E4M3 that share a scale.
constexpr uint32_t kTileSide = 128;
// Tiles along a side of `size` elements; the last one may be cut off.
inline uint32_t TilesAlong(uint32_t size) { return size / kTileSide + (size % kTileSide != 0); }

// As DequantizeRow, with the tiles' scales where the tensor has them. out: [cols].
void DequantizeTensorRow(const TensorView& tensor, uint32_t row, float* out);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TENSOR_ROW_H_
