#include "gpu_worker/model/tensor_row.h"

namespace hga {
namespace {

constexpr uint32_t kTile = 128;

}  // namespace

void DequantizeTensorRow(const TensorView& tensor, uint32_t row, float* out) {
  DequantizeRow(tensor.type, tensor.row(row), tensor.cols, out);
  if (tensor.tile_scales == nullptr) return;
  const float* scales = tensor.tile_scales + row / kTile * ((tensor.cols + kTile - 1) / kTile);
  for (uint32_t i = 0; i < tensor.cols; ++i) out[i] *= scales[i / kTile];
}

}  // namespace hga
