// A model's weights as views into memory that somebody else keeps (the mapped file, or a test's buffers).
#ifndef HGA_GPU_WORKER_MODEL_WEIGHTS_H_
#define HGA_GPU_WORKER_MODEL_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gpu_worker/model/config.h"
#include "gpu_worker/model/quant.h"

namespace hga {

// Row-major matrix [rows][cols]: y[rows] = W x[cols]. A vector has rows = 1.
struct TensorView {
  TensorType type = TensorType::kF32;
  uint32_t rows = 0;
  uint32_t cols = 0;
  const uint8_t* data = nullptr;

  size_t row_bytes() const { return TensorRowBytes(type, cols); }
  const uint8_t* row(uint32_t r) const { return data + size_t{r} * row_bytes(); }
};

struct LayerWeights {
  TensorView attn_norm;    // [hidden] f32
  TensorView q;            // [query_heads * head_dim][hidden]
  TensorView k;            // [kv_heads * head_dim][hidden]
  TensorView v;            // [kv_heads * head_dim][hidden]
  TensorView attn_output;  // [hidden][query_heads * head_dim]
  TensorView ffn_norm;     // [hidden] f32
  TensorView ffn_gate;     // [ffn][hidden]
  TensorView ffn_up;       // [ffn][hidden]
  TensorView ffn_down;     // [hidden][ffn]
};

struct ModelWeights {
  ModelConfig config;
  TensorView embedding;    // [vocab][hidden]
  TensorView output_norm;  // [hidden] f32
  TensorView output;       // [vocab][hidden]; the embedding itself where they are tied
  std::vector<LayerWeights> layers;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_WEIGHTS_H_
