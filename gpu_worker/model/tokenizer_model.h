// How a word becomes tokens: byte pair encoding or unigram.
#ifndef HGA_GPU_WORKER_MODEL_TOKENIZER_MODEL_H_
#define HGA_GPU_WORKER_MODEL_TOKENIZER_MODEL_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gpu_worker/model/tokenizer_data.h"

namespace hga {

// Constant once made; thread-safe.
class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends the word's tokens. Time grows with n log n in the word's length, whatever the word.
  virtual void Encode(absl::string_view word, std::vector<uint32_t>* ids) const = 0;
};

// Of each id the text that becomes it; empty: text never does.
using Pieces = std::vector<std::string>;

// Ids of the tokens <0x00> to <0xFF>, as far as they are there; TokenizerData::kNone where not.
std::array<uint32_t, 256> ByteTokenIds(const std::vector<std::string>& tokens);

// INVALID_ARGUMENT names the field of TokenizerData and the entry in it.
absl::StatusOr<std::unique_ptr<TokenModel>> CreateBpe(const TokenizerData& data, Pieces pieces);
absl::StatusOr<std::unique_ptr<TokenModel>> CreateUnigram(const TokenizerData& data, Pieces pieces);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKENIZER_MODEL_H_
