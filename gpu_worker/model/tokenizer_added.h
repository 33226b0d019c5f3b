// Tokens that are found in a text as they stand, before anything else is done to it.
#ifndef HGA_GPU_WORKER_MODEL_TOKENIZER_ADDED_H_
#define HGA_GPU_WORKER_MODEL_TOKENIZER_ADDED_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "gpu_worker/model/byte_trie.h"
#include "gpu_worker/model/tokenizer_data.h"

namespace hga {

// Constant once made; thread-safe.
class AddedTokens {
 public:
  struct Part {
    absl::string_view text;
    uint32_t id;  // TokenizerData::kNone: plain text
  };

  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // Appends the parts of `text` in order, none empty. Of the tokens at a place the longest is taken, the first place
  // first. control: control tokens are looked for too; else theirs is text like any other.
  void Split(absl::string_view text, bool control, std::vector<Part>* parts) const;

 private:
  std::vector<AddedToken> tokens_;
  ByteTrie trie_;  // of places in tokens_
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKENIZER_ADDED_H_
