// Quantised tensor types as GGUF stores them, one row at a time.
#ifndef HGA_GPU_WORKER_MODEL_QUANT_H_
#define HGA_GPU_WORKER_MODEL_QUANT_H_

#include <cstddef>
#include <cstdint>

namespace hga {

// Values are those of the GGUF format, which has no type for FP8 tiles: that one is ours.
enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
  kF8E4M3 = 0x10000,  // one byte an element, scaled by tiles (TensorView::tile_scales); safetensors only
};

// Whether a GGUF file may use the type.
bool TensorTypeSupported(uint32_t gguf_type);
const char* TensorTypeName(TensorType type);
// Elements of one block; a row is a whole number of blocks.
uint32_t TensorBlockElements(TensorType type);
uint32_t TensorBlockBytes(TensorType type);
size_t TensorRowBytes(TensorType type, uint32_t cols);

// Bit-exact against the format's definition. `cols` is a multiple of TensorBlockElements. kF8E4M3: without the tiles'
// scales.
void DequantizeRow(TensorType type, const uint8_t* row, uint32_t cols, float* out);

// False if a scale of a block, or an element where elements have no scale, is infinite or not a number.
bool RowIsFinite(TensorType type, const uint8_t* row, uint32_t cols);

float HalfToFloat(uint16_t half);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_QUANT_H_
