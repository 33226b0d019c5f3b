#include "gpu_worker/model/tokenizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"
#include "common/base/utf8.h"
#include "gpu_worker/model/byte_alphabet.h"
#include "gpu_worker/model/text_normalizer.h"

namespace hga {
namespace {

using Model = TokenizerData::Model;

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD
constexpr uint32_t kNone = TokenizerData::kNone;
constexpr size_t kMaxIds = size_t{1} << 22;
constexpr size_t kMaxAddedBytes = 1024;  // bounds the work at each place of a text
constexpr size_t kMaxTextBytes = size_t{1} << 30;

// The text that a token of the model stands for.
std::string DecodeToken(const TokenizerData& data, const std::string& token) {
  if (data.model == Model::kByteBpe) {
    std::string bytes;
    return FromByteAlphabet(token, &bytes) ? bytes : token;
  }
  return data.metaspace_decoder ? absl::StrReplaceAll(token, {{kMetaspace, " "}}) : token;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerData data) {
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer);
  HGA_RETURN_IF_ERROR(tokenizer->TakeAddedTokens(&data));
  HGA_RETURN_IF_ERROR(tokenizer->CheckIds(data));
  Pieces pieces = tokenizer->TakeTokens(&data);
  HGA_ASSIGN_OR_RETURN(tokenizer->model_, data.model == Model::kUnigram ? CreateUnigram(data, std::move(pieces))
                                                                        : CreateBpe(data, std::move(pieces)));
  HGA_ASSIGN_OR_RETURN(tokenizer->split_, PreTokenizer::Create(std::move(data.split)));
  tokenizer->normalize_ = std::move(data.normalize);
  tokenizer->ends_ = std::move(data.ends);
  tokenizer->chat_template_ = std::move(data.chat_template);
  tokenizer->bos_ = data.bos;
  tokenizer->add_bos_ = data.add_bos && data.bos != kNone;
  tokenizer->strip_leading_space_ = data.strip_leading_space;
  return tokenizer;
}

// Gives each added token its place among the ids and its text.
absl::Status Tokenizer::TakeAddedTokens(TokenizerData* data) {
  size_t count = data->tokens.size();
  for (const AddedToken& token : data->added) count = std::max<size_t>(count, size_t{token.id} + 1);
  if (count == 0 || count > kMaxIds) {
    return absl::InvalidArgumentError(absl::StrCat("vocabulary: ", count, " ids; 1 to ", kMaxIds, " are possible"));
  }
  bytes_.resize(count);
  control_.resize(count);
  std::vector<AddedToken> raw, normalized;
  for (const AddedToken& token : data->added) {
    const auto wrong = [&](const std::string& what) {
      return absl::InvalidArgumentError(
          absl::StrCat("added tokens: token ", token.id, " ('", token.text, "') ", what));
    };
    if (token.text.empty() || token.text.size() > kMaxAddedBytes) {
      return wrong(absl::StrCat("has ", token.text.size(), " bytes; 1 to ", kMaxAddedBytes, " are possible"));
    }
    if (ValidUtf8Prefix(token.text) != token.text.size()) return wrong("is not UTF-8");
    if (token.id < data->tokens.size() && !data->tokens[token.id].empty() && data->tokens[token.id] != token.text) {
      return wrong(absl::StrCat("has the id of the vocabulary's '", data->tokens[token.id], "'"));
    }
    if (!bytes_[token.id].empty()) return wrong(absl::StrCat("has the id of '", bytes_[token.id], "'"));
    if (!ids_.emplace(token.text, token.id).second) {
      return wrong(absl::StrCat("stands there twice, also as ", ids_[token.text]));
    }
    bytes_[token.id] = token.text;
    control_[token.id] = token.control;
    (token.normalized ? normalized : raw).push_back(token);
  }
  for (AddedToken& token : normalized) {
    HGA_ASSIGN_OR_RETURN(token.text, NormalizeText(data->normalize, token.text));
  }
  raw_added_ = AddedTokens(std::move(raw));
  normalized_added_ = AddedTokens(std::move(normalized));
  return absl::OkStatus();
}

absl::Status Tokenizer::CheckIds(const TokenizerData& data) const {
  const auto outside = [&](const char* what, uint32_t id) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " ", id, " is outside the vocabulary of ", vocab_size(), " ids"));
  };
  if (data.bos != kNone && data.bos >= vocab_size()) return outside("begin token", data.bos);
  if (data.unknown != kNone && data.unknown >= vocab_size()) return outside("unknown token", data.unknown);
  for (uint32_t id : data.ends) {
    if (id >= vocab_size()) return outside("end token", id);
  }
  for (uint32_t id : data.no_match) {
    if (id >= data.tokens.size()) return outside("token", id);
  }
  if (!data.scores.empty() && data.scores.size() != data.tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("scores: ", data.scores.size(), " for ", data.tokens.size(), " tokens"));
  }
  for (uint32_t id = 0; id < data.scores.size(); ++id) {
    if (!std::isfinite(data.scores[id])) {
      return absl::InvalidArgumentError(absl::StrCat("scores: that of token ", id, " is not a finite number"));
    }
  }
  return absl::OkStatus();
}

// Fills what ids are in text; returns the texts by which the model finds them.
Pieces Tokenizer::TakeTokens(TokenizerData* data) {
  const auto byte_tokens =
      data->byte_fallback ? ByteTokenIds(data->tokens) : ByteTokenIds(std::vector<std::string>());
  Pieces pieces(data->tokens.size());
  for (uint32_t id = 0; id < data->tokens.size(); ++id) {
    const std::string& token = data->tokens[id];
    if (token.empty()) continue;
    ids_.emplace(token, id);
    if (bytes_[id].empty()) bytes_[id] = DecodeToken(*data, token);
    // A token with a character that stands for no byte is never made from bytes.
    if (data->model != Model::kByteBpe) {
      pieces[id] = token;
    } else if (!FromByteAlphabet(token, &pieces[id])) {
      pieces[id].clear();
    }
  }
  for (uint32_t id : data->no_match) pieces[id].clear();
  for (int byte = 0; byte < 256; ++byte) {
    if (byte_tokens[byte] != kNone) bytes_[byte_tokens[byte]] = std::string(1, static_cast<char>(byte));
  }
  return pieces;
}

absl::StatusOr<std::vector<uint32_t>> Tokenizer::Encode(absl::string_view text, bool parse_special) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", text.size(), " bytes; at most ", kMaxTextBytes));
  }
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the text is not valid UTF-8 at byte ", valid));
  }
  std::vector<uint32_t> ids;
  std::vector<AddedTokens::Part> parts;
  raw_added_.Split(text, parse_special, &parts);
  for (const auto& part : parts) {
    if (part.id != kNone) {
      ids.push_back(part.id);
    } else {
      HGA_RETURN_IF_ERROR(EncodePlain(part.text, parse_special, part.text.data() == text.data(), &ids));
    }
  }
  return ids;
}

// first: `text` begins the text that the caller gave.
absl::Status Tokenizer::EncodePlain(absl::string_view text, bool parse_special, bool first,
                                    std::vector<uint32_t>* ids) const {
  std::string normalized;
  if (!normalize_.empty()) {
    HGA_ASSIGN_OR_RETURN(normalized, NormalizeText(normalize_, text));
    text = normalized;
  }
  std::vector<AddedTokens::Part> parts;
  normalized_added_.Split(text, parse_special, &parts);
  Words split;
  for (const auto& part : parts) {
    if (part.id != kNone) {
      ids->push_back(part.id);
      continue;
    }
    HGA_RETURN_IF_ERROR(split_.Split(part.text, first && part.text.data() == text.data(), &split));
    for (absl::string_view word : split.words) model_->Encode(word, ids);
  }
  return absl::OkStatus();
}

const std::string& Tokenizer::TokenBytes(uint32_t id) const {
  static const std::string* const kNothing = new std::string;
  return id < bytes_.size() ? bytes_[id] : *kNothing;
}

absl::StatusOr<uint32_t> Tokenizer::FindToken(const std::string& token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return absl::NotFoundError(absl::StrCat("the vocabulary has no token '", token, "'"));
  return found->second;
}

std::string StreamDecoder::Add(uint32_t id) {
  if (!tokenizer_->IsControl(id)) {
    absl::string_view bytes = tokenizer_->TokenBytes(id);
    if (strip_space_ && !bytes.empty()) {
      strip_space_ = false;
      if (bytes[0] == ' ') bytes.remove_prefix(1);
    }
    pending_.append(bytes.data(), bytes.size());
  }
  std::string text;
  size_t done = 0, length = 0;
  while (done < pending_.size()) {
    const Utf8Step step = NextUtf8(absl::string_view(pending_).substr(done), &length);
    if (step == Utf8Step::kIncomplete) break;
    if (step == Utf8Step::kCharacter) {
      text.append(pending_, done, length);
    } else {
      text += kReplacement;
    }
    done += length;
  }
  pending_.erase(0, done);
  return text;
}

std::string StreamDecoder::Finish() {
  const bool unfinished = !pending_.empty();
  pending_.clear();
  return unfinished ? kReplacement : "";
}

}  // namespace hga
