// Tokenizers in GGUF metadata.
#ifndef HGA_GPU_WORKER_MODEL_GGUF_TOKENIZER_H_
#define HGA_GPU_WORKER_MODEL_GGUF_TOKENIZER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/model/gguf.h"
#include "gpu_worker/model/tokenizer.h"

namespace hga {

// tokenizer.ggml.model "gpt2" (byte-level BPE), "llama" (SentencePiece's BPE) and "t5" (unigram).
// INVALID_ARGUMENT names the file, the key and what was expected.
absl::StatusOr<std::unique_ptr<Tokenizer>> ReadGgufTokenizer(const GgufFile& file);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_GGUF_TOKENIZER_H_
