#include "gpu_worker/model/tensor_row.h"

namespace hga {

void DequantizeTensorRow(const TensorView& tensor, uint32_t row, float* out) {
  DequantizeRow(tensor.type, tensor.row(row), tensor.cols, out);
  if (tensor.tile_scales == nullptr) return;
  const float* scales = tensor.tile_scales + size_t{row / kTileSide} * TilesAlong(tensor.cols);
  for (uint32_t i = 0; i < tensor.cols; ++i) out[i] *= scales[i / kTileSide];
}

}  // namespace hga
