// Hugging Face checkpoints with made-up weights: config.json, tokenizer.json and safetensors, as the real ones lay
// them out. For tests and benchmarks.
#ifndef HGA_GPU_WORKER_MODEL_RANDOM_CHECKPOINT_H_
#define HGA_GPU_WORKER_MODEL_RANDOM_CHECKPOINT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/model/checkpoint_writer.h"
#include "nlohmann/json.hpp"

namespace hga {

struct RandomCheckpointOptions {
  std::string hf_class = "LlamaForCausalLM";
  uint32_t layers = 2;
  uint32_t hidden = 64;
  uint32_t ffn = 128;
  uint32_t query_heads = 4;
  uint32_t kv_heads = 2;
  uint32_t head_dim = 16;
  uint32_t vocab_size = 259;
  uint32_t context_tokens = 2048;
  float rope_theta = 10000;
  uint32_t experts = 0, experts_per_token = 0, expert_ffn = 0;  // Qwen3MoeForCausalLM
  bool tied = false;
  bool fp8 = false;            // matrices of attention and MLP as F8_E4M3 with tile scales of type `dtype`
  std::string dtype = "BF16";  // of everything else
  bool holes = false;          // matrices are zeros that take no room
  uint32_t seed = 1;
  uint64_t shard_bytes = UINT64_MAX;
};

// Qwen3-30B-A3B-Instruct-2507-FP8 as published, but for the number of layers (48) and, with holes, the data.
RandomCheckpointOptions Qwen3Moe30bFp8(uint32_t layers);

// What the files will hold.
nlohmann::ordered_json CheckpointConfig(const RandomCheckpointOptions& options);
std::vector<TensorToWrite> CheckpointTensors(const RandomCheckpointOptions& options);

// The folder must be there. The tokenizer is byte-level with a few merges, whatever vocab_size (at least 259) says.
absl::Status WriteRandomCheckpoint(const std::string& folder, const RandomCheckpointOptions& options);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_RANDOM_CHECKPOINT_H_
