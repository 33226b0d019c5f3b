// Text to token ids and back, for every kind of tokenizer that TokenizerData describes.
#ifndef HGA_GPU_WORKER_MODEL_TOKENIZER_H_
#define HGA_GPU_WORKER_MODEL_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gpu_worker/model/pre_tokenizer.h"
#include "gpu_worker/model/tokenizer_added.h"
#include "gpu_worker/model/tokenizer_data.h"
#include "gpu_worker/model/tokenizer_model.h"

namespace hga {

// Constant after Create; thread-safe.
class Tokenizer {
 public:
  // INVALID_ARGUMENT names the field of `data` and the entry: a vocabulary that cannot work (a merge of unknown
  // tokens, the same token twice, ids outside it, no token for a printable ASCII character, a wrong pattern).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerData data);

  // The text's ids, without BOS. parse_special: control tokens in the text become their ids; else they are text like
  // any other. Characters that the vocabulary has no token for become the unknown token or, where there is none, are
  // left out, as they were when the model was trained. INVALID_ARGUMENT: not UTF-8 (tells the first wrong byte), or
  // longer than 1 GiB. RESOURCE_EXHAUSTED: the file's own pattern takes too long over this text.
  absl::StatusOr<std::vector<uint32_t>> Encode(absl::string_view text, bool parse_special) const;

  // Bytes of a token's text; empty for ids outside the vocabulary. Control tokens give their name.
  const std::string& TokenBytes(uint32_t id) const;
  // Control tokens are not part of the text that a user sees.
  bool IsControl(uint32_t id) const { return id < control_.size() && control_[id]; }
  // NOT_FOUND if there is no such token.
  absl::StatusOr<uint32_t> FindToken(const std::string& token) const;

  // One more than the highest id.
  uint32_t vocab_size() const { return static_cast<uint32_t>(bytes_.size()); }
  // The first of ends(); UINT32_MAX, which is no token, if there is none.
  uint32_t eos() const { return ends_.empty() ? TokenizerData::kNone : ends_[0]; }
  // Each ends an answer.
  const std::vector<uint32_t>& ends() const { return ends_; }
  // UINT32_MAX: there is none.
  uint32_t bos() const { return bos_; }
  // A prompt that is not the continuation of another begins with bos().
  bool add_bos() const { return add_bos_; }
  // A whole text that is decoded loses its first blank, if it begins with one.
  bool strip_leading_space() const { return strip_leading_space_; }
  // Jinja text; empty: the file has none.
  const std::string& chat_template() const { return chat_template_; }

 private:
  Tokenizer() = default;
  absl::Status TakeAddedTokens(TokenizerData* data);
  absl::Status CheckIds(const TokenizerData& data) const;
  Pieces TakeTokens(TokenizerData* data);
  absl::Status EncodePlain(absl::string_view text, bool parse_special, bool first, std::vector<uint32_t>* ids) const;

  // Constant after Create.
  AddedTokens raw_added_;         // looked for in the text as it comes
  AddedTokens normalized_added_;  // looked for in what the normaliser makes of it
  std::vector<NormalizeStep> normalize_;
  PreTokenizer split_;
  std::unique_ptr<TokenModel> model_;
  absl::flat_hash_map<std::string, uint32_t> ids_;  // of added tokens as they stand, of others as the file has them
  std::vector<std::string> bytes_;                  // by id
  std::vector<bool> control_;                       // by id
  std::vector<uint32_t> ends_;
  std::string chat_template_;
  uint32_t bos_ = TokenizerData::kNone;
  bool add_bos_ = false;
  bool strip_leading_space_ = false;
};

// Turns a stream of ids into text that never ends inside a character. One sequence, one thread.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer)
      : tokenizer_(tokenizer), strip_space_(tokenizer->strip_leading_space()) {}
  // What is complete now. Control tokens add nothing; bytes that can never be a character become U+FFFD.
  std::string Add(uint32_t id);
  // The rest; an unfinished character becomes U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* const tokenizer_;
  bool strip_space_;  // until the text has begun
  std::string pending_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKENIZER_H_
