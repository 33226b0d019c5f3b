// What the files beside tokenizer.json say: begin and end tokens, chat template.
#ifndef HGA_GPU_WORKER_MODEL_TOKENIZER_CONFIG_H_
#define HGA_GPU_WORKER_MODEL_TOKENIZER_CONFIG_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/model/json_file.h"
#include "gpu_worker/model/tokenizer_data.h"

namespace hga {

// One entry of added_tokens (tokenizer.json) or added_tokens_decoder (tokenizer_config.json).
absl::StatusOr<AddedToken> ReadAddedToken(const JsonFields& fields, uint32_t id);

// Completes `data` from tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and
// chat_template.jinja, as far as they are there. INVALID_ARGUMENT names the file and the field, also where none of
// them says which token ends an answer.
absl::Status ReadTokenizerConfig(const std::string& folder, TokenizerData* data);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKENIZER_CONFIG_H_
