#include "gpu_worker/model/tokenizer_added.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace hga {
namespace {

// Unicode's white space, in UTF-8.
constexpr const char* kSpaces[] = {" ",        "\t",       "\n",       "\v",       "\f",       "\r",       "\u0085",
                                   "\u00a0",   "\u1680",   "\u2000",   "\u2001",   "\u2002",   "\u2003",   "\u2004",
                                   "\u2005",   "\u2006",   "\u2007",   "\u2008",   "\u2009",   "\u200a",   "\u2028",
                                   "\u2029",   "\u202f",   "\u205f",   "\u3000"};

size_t SpaceAtStart(absl::string_view text) {
  size_t bytes = 0;
  const auto starts = [&](absl::string_view space) { return absl::StartsWith(text.substr(bytes), space); };
  for (const char* const* space = kSpaces; space != std::end(kSpaces);) {
    space = std::find_if(std::begin(kSpaces), std::end(kSpaces), starts);
    if (space != std::end(kSpaces)) bytes += absl::string_view(*space).size();
  }
  return bytes;
}

size_t SpaceAtEnd(absl::string_view text) {
  const size_t all = text.size();
  const auto ends = [&](absl::string_view space) { return absl::EndsWith(text, space); };
  for (const char* const* space = kSpaces; space != std::end(kSpaces);) {
    space = std::find_if(std::begin(kSpaces), std::end(kSpaces), ends);
    if (space != std::end(kSpaces)) text.remove_suffix(absl::string_view(*space).size());
  }
  return all - text.size();
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (uint32_t i = 0; i < tokens_.size(); ++i) trie_.Add(tokens_[i].text, i);
}

void AddedTokens::Split(absl::string_view text, bool control, std::vector<Part>* parts) const {
  size_t done = 0;
  const auto plain = [&](size_t end) {
    if (end > done) parts->push_back({text.substr(done, end - done), TokenizerData::kNone});
  };
  for (size_t at = 0; !trie_.empty() && at < text.size();) {
    size_t length = 0;
    uint32_t index = 0;
    if (trie_.StartsAny(text[at])) {
      trie_.Walk(text.substr(at), [&](size_t bytes, uint32_t found) {
        length = bytes;
        index = found;
      });
    }
    if (length == 0 || (tokens_[index].control && !control)) {
      at += std::max<size_t>(length, 1);
      continue;
    }
    const AddedToken& token = tokens_[index];
    size_t begin = at;
    if (token.lstrip) begin -= SpaceAtEnd(text.substr(done, at - done));
    plain(begin);
    at += length;
    if (token.rstrip) at += SpaceAtStart(text.substr(at));
    parts->push_back({text.substr(begin, at - begin), token.id});
    done = at;
  }
  plain(text.size());
}

}  // namespace hga
