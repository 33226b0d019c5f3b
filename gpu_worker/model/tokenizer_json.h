// Tokenizers in Hugging Face's format.
#ifndef HGA_GPU_WORKER_MODEL_TOKENIZER_JSON_H_
#define HGA_GPU_WORKER_MODEL_TOKENIZER_JSON_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gpu_worker/model/tokenizer.h"

namespace hga {

// Reads `folder`/tokenizer.json and, where they are there, tokenizer_config.json, special_tokens_map.json,
// generation_config.json and chat_template.jinja (begin and end tokens, chat template).
// NOT_FOUND: no tokenizer.json. INVALID_ARGUMENT names the file, the field and what was expected; a field that would
// change the result and is not understood is refused, never passed over.
absl::StatusOr<std::unique_ptr<Tokenizer>> ReadTokenizerJson(const std::string& folder);

// The text of tokenizer.json alone; begin and end tokens are those that it gives itself.
absl::StatusOr<TokenizerData> ParseTokenizerJson(absl::string_view text);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKENIZER_JSON_H_
