// A model's weights as views into memory that somebody else keeps (the mapped file, or a test's buffers).
#ifndef HGA_GPU_WORKER_MODEL_WEIGHTS_H_
#define HGA_GPU_WORKER_MODEL_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gpu_worker/model/config.h"
#include "gpu_worker/model/quant.h"

namespace hga {

// Row-major matrix [rows][cols]: y[rows] = W x[cols]. A vector has rows = 1. Absent: data is nullptr.
struct TensorView {
  TensorType type = TensorType::kF32;
  uint32_t rows = 0;
  uint32_t cols = 0;
  const uint8_t* data = nullptr;
  // kF8E4M3 only: what each 128 x 128 tile is multiplied with, [ceil(rows / 128)][ceil(cols / 128)].
  const float* tile_scales = nullptr;

  bool present() const { return data != nullptr; }
  size_t row_bytes() const { return TensorRowBytes(type, cols); }
  const uint8_t* row(uint32_t r) const { return data + size_t{r} * row_bytes(); }
};

struct LayerWeights {
  TensorView attn_norm;    // [hidden] f32
  TensorView q;            // [query_heads * head_dim][hidden]
  TensorView k;            // [kv_heads * head_dim][hidden]
  TensorView v;            // [kv_heads * head_dim][hidden]
  TensorView q_bias, k_bias, v_bias;  // [rows of q, k, v] f32; with config.qkv_bias
  TensorView q_norm, k_norm;          // [head_dim] f32; with config.qk_norm
  TensorView attn_output;  // [hidden][query_heads * head_dim]
  TensorView ffn_norm;     // [hidden] f32
  TensorView ffn_gate;     // [ffn][hidden]
  TensorView ffn_up;       // [ffn][hidden]
  TensorView ffn_down;     // [hidden][ffn]

  // With config.experts, instead of the three above. A file may keep the experts of a layer in one tensor (GGUF) or
  // in one each (safetensors), so each expert is a view of its own.
  TensorView expert_router;             // [experts][hidden]
  std::vector<TensorView> expert_gate;  // [experts] of [expert_ffn][hidden]
  std::vector<TensorView> expert_up;    // [experts] of [expert_ffn][hidden]
  std::vector<TensorView> expert_down;  // [experts] of [hidden][expert_ffn]
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
