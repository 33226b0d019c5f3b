// Hyper-parameters of a model, whatever file they came from.
#ifndef HGA_GPU_WORKER_MODEL_CONFIG_H_
#define HGA_GPU_WORKER_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/kv/geometry.h"

namespace hga {

// Which elements of a head RoPE turns together.
enum class RopeStyle {
  kAdjacentPairs,  // (2i, 2i+1): GGUF files of the llama architecture
  kHalves,         // (i, i + head_dim/2): the original checkpoints
};

// How a checkpoint stretches RoPE beyond its original context. The fields are those of its config.json.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3, kYarn };
  Kind kind = Kind::kNone;
  float factor = 1;
  uint32_t original_context = 0;
  float low_frequency_factor = 1, high_frequency_factor = 4;  // llama3
  float beta_fast = 32, beta_slow = 1;                        // yarn
  float attention_factor = 0;                                 // yarn; 0: 0.1 ln(factor) + 1
  // Divisors of the base frequencies, [rope_dims / 2], where the file holds them itself (GGUF rope_freqs.weight).
  std::vector<float> divisors;
};

struct ModelConfig {
  std::string name;
  std::string architecture;  // "llama", "qwen2", "qwen3", "qwen3moe"
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
  RopeScaling rope_scaling;

  bool qkv_bias = false;  // Qwen2: biases on the query, key and value projections
  bool qk_norm = false;   // Qwen3: RMS norm of each query and key head before RoPE

  // Mixture of experts; experts = 0: a dense MLP of width `ffn` in every layer.
  uint32_t experts = 0;
  uint32_t experts_per_token = 0;
  uint32_t expert_ffn = 0;           // width of one expert
  bool normalize_expert_weights = true;  // norm_topk_prob: the chosen experts' weights sum to 1

  // INVALID_ARGUMENT naming what is out of bounds.
  absl::Status Validate() const;
  KvGeometry Geometry(uint32_t chunk_tokens = 64, uint32_t group_tokens = 16) const;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_CONFIG_H_
