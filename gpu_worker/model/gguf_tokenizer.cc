#include "gpu_worker/model/gguf_tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

using Model = TokenizerData::Model;
using StepKind = NormalizeStep::Kind;

constexpr char kPrefix[] = "tokenizer.ggml.";

// GGUF's kinds of tokens.
enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  absl::StatusOr<std::unique_ptr<Tokenizer>> Read() {
    HGA_ASSIGN_OR_RETURN(const std::string model, file_.GetString(Key("model")));
    HGA_ASSIGN_OR_RETURN(data_.tokens, file_.GetStrings(Key("tokens")));
    HGA_RETURN_IF_ERROR(ReadTypes());
    HGA_RETURN_IF_ERROR(ReadSpecialIds());
    if (model == "gpt2") {
      HGA_RETURN_IF_ERROR(ReadByteBpe());
    } else if (model == "llama" || model == "t5") {
      HGA_RETURN_IF_ERROR(ReadSentencePiece(model));
    } else {
      return Wrong("model", absl::StrCat("is '", model, "'; known are gpt2 (byte-level BPE), llama (SentencePiece's ",
                                         "BPE) and t5 (unigram)"));
    }
    TakeAddedTokens();
    auto tokenizer = Tokenizer::Create(std::move(data_));
    if (tokenizer.ok()) return tokenizer;
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat("model ", file_.path(), ": ", kPrefix, "*: ",
                                     std::string(tokenizer.status().message())));
  }

 private:
  static std::string Key(absl::string_view name) { return absl::StrCat(kPrefix, name); }

  absl::Status Wrong(absl::string_view name, const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat("model ", file_.path(), ": ", Key(name), " ", what));
  }

  absl::Status ReadTypes() {
    types_.assign(data_.tokens.size(), kNormal);
    if (!file_.Has(Key("token_type"))) return absl::OkStatus();
    HGA_ASSIGN_OR_RETURN(types_, file_.GetInts(Key("token_type")));
    if (types_.size() == data_.tokens.size()) return absl::OkStatus();
    return Wrong("token_type", absl::StrCat("has ", types_.size(), " entries for ", data_.tokens.size(), " tokens"));
  }

  // An id that the file may leave out; llama.cpp writes -1 for none in some files.
  absl::StatusOr<uint32_t> ReadId(const char* name) const {
    if (!file_.Has(Key(name))) return TokenizerData::kNone;
    HGA_ASSIGN_OR_RETURN(const uint64_t id, file_.GetUint(Key(name)));
    if (id == UINT32_MAX) return TokenizerData::kNone;
    if (id < data_.tokens.size()) return static_cast<uint32_t>(id);
    return Wrong(name, absl::StrCat("is ", id, ", outside the vocabulary of ", data_.tokens.size(), " tokens"));
  }

  absl::StatusOr<bool> ReadFlag(const char* name, bool otherwise) const {
    if (!file_.Has(Key(name))) return otherwise;
    HGA_ASSIGN_OR_RETURN(const uint64_t value, file_.GetUint(Key(name)));
    return value != 0;
  }

  absl::Status ReadSpecialIds() {
    HGA_ASSIGN_OR_RETURN(data_.bos, ReadId("bos_token_id"));
    HGA_ASSIGN_OR_RETURN(data_.unknown, ReadId("unknown_token_id"));
    for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
      HGA_ASSIGN_OR_RETURN(const uint32_t id, ReadId(name));
      const bool known = std::find(data_.ends.begin(), data_.ends.end(), id) != data_.ends.end();
      if (id != TokenizerData::kNone && !known) data_.ends.push_back(id);
    }
    if (data_.ends.empty()) return Wrong("eos_token_id", "is missing: nothing says where an answer ends");
    data_.chat_template = file_.GetString("tokenizer.chat_template").value_or("");
    return absl::OkStatus();
  }

  absl::Status ReadMerges() {
    HGA_ASSIGN_OR_RETURN(const auto merges, file_.GetStrings(Key("merges")));
    data_.merges.reserve(merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      // A part may itself begin with a plain blank in vocabularies of characters, but not hold one further on.
      const size_t blank = merges[i].find(' ', 1);
      if (blank == std::string::npos) {
        return Wrong("merges", absl::StrCat("entry ", i, " is '", merges[i], "'; two tokens and a blank are expected"));
      }
      data_.merges.emplace_back(merges[i].substr(0, blank), merges[i].substr(blank + 1));
    }
    return absl::OkStatus();
  }

  absl::Status ReadByteBpe() {
    data_.model = Model::kByteBpe;
    const std::string pre = file_.GetString(Key("pre")).value_or("default");
    const std::optional<TokenizerFamily> family = FindTokenizerFamily(pre);
    if (!family.has_value()) {
      return Wrong("pre", absl::StrCat("is '", pre, "'; known pre-tokenizers are ", TokenizerFamilyNames()));
    }
    data_.split = family->split;
    data_.ignore_merges = family->ignore_merges;
    if (family->nfc) data_.normalize.push_back({StepKind::kNfc, "", ""});
    HGA_ASSIGN_OR_RETURN(data_.add_bos, ReadFlag("add_bos_token", family->add_bos));
    return ReadMerges();
  }

  absl::Status ReadSentencePiece(const std::string& model) {
    const bool unigram = model == "t5";
    data_.model = unigram ? Model::kUnigram : Model::kBpe;
    data_.metaspace_decoder = true;
    data_.byte_fallback = std::find(types_.begin(), types_.end(), int64_t{kByte}) != types_.end();
    data_.fuse_unknown = true;
    data_.float_sums = true;  // as SentencePiece itself has it
    HGA_RETURN_IF_ERROR(ReadNormalizer(unigram));
    HGA_ASSIGN_OR_RETURN(data_.add_bos, ReadFlag("add_bos_token", !unigram));
    if (!unigram && file_.Has(Key("merges"))) return ReadMerges();
    HGA_ASSIGN_OR_RETURN(const auto scores, file_.GetFloats(Key("scores")));
    data_.scores.assign(scores.begin(), scores.end());
    return absl::OkStatus();
  }

  absl::Status ReadNormalizer(bool unigram) {
    if (file_.Has(Key("precompiled_charsmap"))) {
      return Wrong("precompiled_charsmap",
                   "is not supported: tokenizers whose normalizer is 'identity' (no such key) are");
    }
    HGA_ASSIGN_OR_RETURN(const bool collapse, ReadFlag("remove_extra_whitespaces", unigram));
    HGA_ASSIGN_OR_RETURN(const bool prefix, ReadFlag("add_space_prefix", true));
    if (collapse) data_.normalize.push_back({StepKind::kCollapseSpaces, "", ""});
    if (prefix) data_.normalize.push_back({StepKind::kPrepend, "", " "});
    data_.normalize.push_back({StepKind::kReplace, " ", kMetaspace});
    data_.strip_leading_space = prefix;
    return absl::OkStatus();
  }

  void TakeAddedTokens() {
    for (uint32_t id = 0; id < types_.size(); ++id) {
      const int64_t type = types_[id];
      if (type != kNormal) data_.no_match.push_back(id);
      if ((type != kControl && type != kUserDefined) || data_.tokens[id].empty()) continue;
      AddedToken token;
      token.text = data_.tokens[id];
      token.id = id;
      token.control = type == kControl;
      data_.added.push_back(std::move(token));
    }
  }

  const GgufFile& file_;
  TokenizerData data_;
  std::vector<int64_t> types_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ReadGgufTokenizer(const GgufFile& file) { return Reader(file).Read(); }

}  // namespace hga
