// Rows of quantised weights, for tests and random models.
#ifndef HGA_GPU_WORKER_MODEL_ROW_QUANTIZER_H_
#define HGA_GPU_WORKER_MODEL_ROW_QUANTIZER_H_

#include <cstdint>
#include <random>
#include <vector>

#include "gpu_worker/model/quant.h"

namespace hga {

// The inverse of DequantizeRow up to the type's precision. F32, F16, BF16 and the types with blocks of 32, of which
// the row is a whole number.
std::vector<uint8_t> QuantizeRow(TensorType type, const std::vector<float>& row);

// A row of any GGUF type whose values have the mean 0 and the standard deviation `scale`. K-quants are made of random
// bits: fitting their two levels of scales is not needed for that.
std::vector<uint8_t> RandomRow(TensorType type, uint32_t cols, float scale, std::mt19937* random);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_ROW_QUANTIZER_H_
