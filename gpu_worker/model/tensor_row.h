// One row of any tensor as floats.
#ifndef HGA_GPU_WORKER_MODEL_TENSOR_ROW_H_
#define HGA_GPU_WORKER_MODEL_TENSOR_ROW_H_

#include <cstdint>

#include "gpu_worker/model/weights.h"

namespace hga {

// As DequantizeRow, with the tiles' scales where the tensor has them. out: [cols].
void DequantizeTensorRow(const TensorView& tensor, uint32_t row, float* out);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TENSOR_ROW_H_
