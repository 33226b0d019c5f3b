// Byte-level BPE ("gpt2" in GGUF) with the pre-tokenizer that the file names.
#ifndef HGA_GPU_WORKER_MODEL_TOKENIZER_H_
#define HGA_GPU_WORKER_MODEL_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gpu_worker/model/split_regex.h"

namespace hga {

struct TokenizerData {
  std::string pre;                  // "smollm", "gpt-2", "default"
  std::vector<std::string> tokens;  // in GPT-2's byte alphabet
  std::vector<int64_t> types;       // GGUF: 1 normal, 3 control, 4 user defined
  std::vector<std::string> merges;  // "left right", best first
  uint32_t eos = 0;
};

// Constant after Create; thread-safe.
class Tokenizer {
 public:
  // INVALID_ARGUMENT: a vocabulary that cannot work (no token for a printable ASCII character, a merge of unknown
  // tokens, unknown `pre`).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerData data);

  // parse_special: special tokens in the text become their ids; else they are text like any other.
  // Bytes that the vocabulary has no token for (control characters that its makers never met) are left out, as they
  // were when the model was trained. INVALID_ARGUMENT tells the offset of the first byte that is not UTF-8.
  absl::StatusOr<std::vector<uint32_t>> Encode(absl::string_view text, bool parse_special) const;

  // Bytes of a token's text; empty for ids outside the vocabulary. Control tokens give their name.
  const std::string& TokenBytes(uint32_t id) const;
  // Control tokens are not part of the text that a user sees.
  bool IsControl(uint32_t id) const;
  // NOT_FOUND if there is no such token.
  absl::StatusOr<uint32_t> FindToken(const std::string& token) const;

  uint32_t vocab_size() const { return static_cast<uint32_t>(bytes_.size()); }
  uint32_t eos() const { return eos_; }

 private:
  struct Merge {
    uint32_t rank;
    uint32_t id;
  };

  Tokenizer() = default;
  absl::Status IndexTokens(const TokenizerData& data);
  absl::Status IndexMerges(const TokenizerData& data);
  void EncodePlain(absl::string_view text, std::vector<uint32_t>* ids) const;
  void EncodeWord(absl::string_view word, std::vector<uint32_t>* ids) const;
  // The longest special token at the start of `text`; nullptr if none.
  const std::pair<std::string, uint32_t>* SpecialAt(absl::string_view text) const;

  // Constant after Create.
  std::unique_ptr<SplitRegex> digits_;  // null: digits are not split first
  std::unique_ptr<SplitRegex> words_;
  absl::flat_hash_map<std::string, uint32_t> ids_;
  std::vector<std::string> bytes_;
  std::vector<bool> control_;
  std::vector<std::pair<std::string, uint32_t>> special_;  // longest first
  uint32_t byte_ids_[256] = {};  // UINT32_MAX: no token
  absl::flat_hash_map<uint64_t, Merge> merges_;  // (left id << 32 | right id)
  uint32_t eos_ = 0;
};

// Turns a stream of ids into text that never ends inside a character. One sequence, one thread.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}
  // What is complete now. Control tokens add nothing; bytes that can never be a character become U+FFFD.
  std::string Add(uint32_t id);
  // The rest; an unfinished character becomes U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* const tokenizer_;
  std::string pending_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKENIZER_H_
