// config.json of a Hugging Face checkpoint.
#ifndef HGA_GPU_WORKER_MODEL_HF_CONFIG_H_
#define HGA_GPU_WORKER_MODEL_HF_CONFIG_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gpu_worker/model/config.h"

namespace hga {

struct HfConfig {
  ModelConfig model;
  bool tied = false;       // the output projection is the embedding
  bool fp8_tiles = false;  // FP8 weights with one scale for each 128 x 128 tile
};

// LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM and Qwen3MoeForCausalLM; RoPE settings as transformers 4
// (rope_theta, rope_scaling) and 5 (rope_parameters) write them. What would change the result and is not known (sliding
// windows, other quantisations, biases) is refused. NOT_FOUND: no such file; INVALID_ARGUMENT names file and field.
absl::StatusOr<HfConfig> ReadHfConfig(const std::string& path);
// `file` stands for the text's origin in messages.
absl::StatusOr<HfConfig> ParseHfConfig(absl::string_view text, const std::string& file);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_HF_CONFIG_H_
