// Hyper-parameters of a model, whatever file they came from.
#ifndef HGA_GPU_WORKER_MODEL_CONFIG_H_
#define HGA_GPU_WORKER_MODEL_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/kv/geometry.h"

namespace hga {

// Which elements of a head RoPE turns together.
enum class RopeStyle {
  kAdjacentPairs,  // (2i, 2i+1): GGUF files of the llama architecture
  kHalves,         // (i, i + head_dim/2): the original checkpoints
};

struct ModelConfig {
  std::string name;
  std::string architecture;  // "llama"
  uint32_t layers = 0;
  uint32_t hidden = 0;         // model width
  uint32_t ffn = 0;            // width of the MLP
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocab_size = 0;
  uint32_t context_tokens = 0;  // longest sequence the model was trained for
  float rms_epsilon = 1e-5f;
  float rope_base = 10000.0f;
  uint32_t rope_dims = 0;       // leading elements of a head that RoPE turns; usually head_dim
  RopeStyle rope_style = RopeStyle::kAdjacentPairs;

  // INVALID_ARGUMENT naming what is out of bounds.
  absl::Status Validate() const;
  KvGeometry Geometry(uint32_t chunk_tokens = 64, uint32_t group_tokens = 16) const;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_CONFIG_H_
