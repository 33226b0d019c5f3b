#include "gpu_worker/model/tokenizer_added.h"

#include <algorithm>

#include "gpu_worker/model/white_space.h"

namespace hga {

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
