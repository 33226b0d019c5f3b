#include "gpu_worker/model/tokenizer.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/base/utf8.h"
#include "gpu_worker/model/byte_alphabet.h"

namespace hga {
namespace {

// GPT-2's words. White space is spelt out: PCRE2's \s holds U+180E, which Unicode no longer counts as white space.
constexpr char kGpt2Words[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\x09-\x0d\x85\p{Z}\p{L}\p{N}]+)"
    R"(|[\x09-\x0d\x85\p{Z}]+(?![^\x09-\x0d\x85\p{Z}])|[\x09-\x0d\x85\p{Z}]+)";
constexpr char kDigits[] = R"(\p{N})";
constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

constexpr int64_t kControl = 3, kUserDefined = 4;
constexpr uint32_t kNoToken = UINT32_MAX;

uint64_t PairKey(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerData data) {
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer);
  if (data.pre == "smollm") {
    HGA_ASSIGN_OR_RETURN(tokenizer->digits_, SplitRegex::Create(kDigits));
  } else if (data.pre != "gpt-2" && data.pre != "default") {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: the pre-tokenizer '", data.pre, "' is not supported; smollm, gpt-2 and default are"));
  }
  HGA_ASSIGN_OR_RETURN(tokenizer->words_, SplitRegex::Create(kGpt2Words));
  HGA_RETURN_IF_ERROR(tokenizer->IndexTokens(data));
  HGA_RETURN_IF_ERROR(tokenizer->IndexMerges(data));
  if (data.eos >= tokenizer->vocab_size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: end token ", data.eos, " is outside the vocabulary"));
  }
  tokenizer->eos_ = data.eos;
  return tokenizer;
}

absl::Status Tokenizer::IndexTokens(const TokenizerData& data) {
  if (!data.types.empty() && data.types.size() != data.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", data.tokens.size(), " tokens but ",
                                                   data.types.size(), " token types"));
  }
  for (uint32_t id = 0; id < data.tokens.size(); ++id) {
    const std::string& token = data.tokens[id];
    const int64_t type = data.types.empty() ? 1 : data.types[id];
    const bool special = type == kControl || type == kUserDefined;
    ids_.emplace(token, id);
    bytes_.push_back(special ? token : FromByteAlphabet(token));
    control_.push_back(type == kControl);
    if (special && !token.empty()) special_.emplace_back(token, id);
  }
  std::sort(special_.begin(), special_.end(), [](const auto& a, const auto& b) {
    return std::make_tuple(b.first.size(), a.first) < std::make_tuple(a.first.size(), b.first);
  });
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = ids_.find(ToByteAlphabet(static_cast<uint8_t>(byte)));
    if (found == ids_.end() && byte >= ' ' && byte <= '~') {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: the vocabulary has no token for byte ", byte));
    }
    byte_ids_[byte] = found == ids_.end() ? kNoToken : found->second;
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::IndexMerges(const TokenizerData& data) {
  for (uint32_t rank = 0; rank < data.merges.size(); ++rank) {
    const std::string& merge = data.merges[rank];
    // A left part may itself begin with a blank's stand-in but never holds a plain blank.
    const size_t blank = merge.find(' ', 1);
    const auto left = ids_.find(merge.substr(0, blank));
    const auto right = blank == std::string::npos ? ids_.end() : ids_.find(merge.substr(blank + 1));
    const auto both =
        blank == std::string::npos ? ids_.end() : ids_.find(merge.substr(0, blank) + merge.substr(blank + 1));
    if (left == ids_.end() || right == ids_.end() || both == ids_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: merge ", rank, " joins or makes a token that the vocabulary does not have"));
    }
    merges_.emplace(PairKey(left->second, right->second), Merge{rank, both->second});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> Tokenizer::Encode(absl::string_view text, bool parse_special) const {
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the text is not valid UTF-8 at byte ", valid));
  }
  std::vector<uint32_t> ids;
  size_t plain = 0;  // start of the text not yet encoded
  for (size_t i = 0; parse_special && i < text.size();) {
    const auto* special = SpecialAt(text.substr(i));
    if (special == nullptr) {
      ++i;
      continue;
    }
    EncodePlain(text.substr(plain, i - plain), &ids);
    ids.push_back(special->second);
    i += special->first.size();
    plain = i;
  }
  EncodePlain(text.substr(plain), &ids);
  return ids;
}

const std::pair<std::string, uint32_t>* Tokenizer::SpecialAt(absl::string_view text) const {
  for (const auto& special : special_) {
    if (absl::StartsWith(text, special.first)) return &special;
  }
  return nullptr;
}

void Tokenizer::EncodePlain(absl::string_view text, std::vector<uint32_t>* ids) const {
  std::vector<absl::string_view> parts, words;
  if (digits_ != nullptr) {
    digits_->Split(text, &parts);
  } else {
    parts.push_back(text);
  }
  for (absl::string_view part : parts) {
    words.clear();
    words_->Split(part, &words);
    for (absl::string_view word : words) EncodeWord(word, ids);
  }
}

// Merges the best-ranked neighbours until none is left. Symbols form a linked list; a heap entry whose symbols have
// changed since it was pushed is stale and passed over.
void Tokenizer::EncodeWord(absl::string_view word, std::vector<uint32_t>* ids) const {
  std::vector<uint32_t> symbol;
  symbol.reserve(word.size());
  for (char byte : word) {
    const uint32_t id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id != kNoToken) symbol.push_back(id);
  }
  const int count = static_cast<int>(symbol.size());
  std::vector<int> next(count), previous(count);
  for (int i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  struct Candidate {
    uint32_t rank;
    int at;
    uint32_t left, right, merged;
    bool operator>(const Candidate& o) const { return std::tie(rank, at) > std::tie(o.rank, o.at); }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<Candidate>> candidates;
  const auto push = [&](int at) {
    if (at < 0 || next[at] >= count) return;
    const auto merge = merges_.find(PairKey(symbol[at], symbol[next[at]]));
    if (merge == merges_.end()) return;
    candidates.push({merge->second.rank, at, symbol[at], symbol[next[at]], merge->second.id});
  };
  for (int i = 0; i + 1 < count; ++i) push(i);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    if (symbol[best.at] != best.left || next[best.at] >= count || symbol[next[best.at]] != best.right) continue;
    const int gone = next[best.at];
    symbol[best.at] = best.merged;
    symbol[gone] = kNoToken;
    next[best.at] = next[gone];
    if (next[gone] < count) previous[next[gone]] = best.at;
    push(previous[best.at]);
    push(best.at);
  }
  for (int i = 0; i < count; i = next[i]) ids->push_back(symbol[i]);
}

const std::string& Tokenizer::TokenBytes(uint32_t id) const {
  static const std::string* const kNothing = new std::string;
  return id < bytes_.size() ? bytes_[id] : *kNothing;
}

bool Tokenizer::IsControl(uint32_t id) const { return id < control_.size() && control_[id]; }

absl::StatusOr<uint32_t> Tokenizer::FindToken(const std::string& token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return absl::NotFoundError(absl::StrCat("the vocabulary has no token '", token, "'"));
  return found->second;
}

std::string StreamDecoder::Add(uint32_t id) {
  if (!tokenizer_->IsControl(id)) pending_ += tokenizer_->TokenBytes(id);
  std::string text;
  size_t done = 0, bytes = 0;
  while (done < pending_.size()) {
    const Utf8Step step = NextUtf8(absl::string_view(pending_).substr(done), &bytes);
    if (step == Utf8Step::kIncomplete) break;
    if (step == Utf8Step::kCharacter) {
      text.append(pending_, done, bytes);
    } else {
      text += kReplacement;
    }
    done += bytes;
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
