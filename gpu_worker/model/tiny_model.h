// Small random models as real GGUF files, so that tests of the whole path need no download.
#ifndef HGA_GPU_WORKER_MODEL_TINY_MODEL_H_
#define HGA_GPU_WORKER_MODEL_TINY_MODEL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "gpu_worker/model/quant.h"

namespace hga {

struct TinyModelOptions {
  uint32_t seed = 1;
  uint32_t layers = 2;
  uint32_t query_heads = 4;
  uint32_t kv_heads = 2;
  uint32_t head_dim = 16;
  uint32_t hidden = 64;
  uint32_t ffn = 128;
  uint32_t context_tokens = 2048;
  TensorType type = TensorType::kQ8_0;  // of the matrices; the embedding is Q8_0, or this type where it is a float type
  bool tied = true;
};

// Vocabulary: <|endoftext|>, <|im_start|>, <|im_end|>, the 256 bytes (byte b is token 3 + its place in GPT-2's
// alphabet order), and a few merges. ChatML template.
absl::Status WriteTinyGguf(const std::string& path, const TinyModelOptions& options);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TINY_MODEL_H_
