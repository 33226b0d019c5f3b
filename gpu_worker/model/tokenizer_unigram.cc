#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/utf8.h"
#include "gpu_worker/model/byte_trie.h"
#include "gpu_worker/model/tokenizer_model.h"

namespace hga {
namespace {

constexpr uint32_t kNone = TokenizerData::kNone;
constexpr double kUnknownPenalty = 10;    // SentencePiece's
constexpr size_t kMaxPieceBytes = 1024;   // bounds the work at each place of a text

// The split of a word with the highest sum of scores.
class UnigramModel : public TokenModel {
 public:
  UnigramModel(const TokenizerData& data, const Pieces& pieces)
      : scores_(data.scores), unknown_(data.unknown), float_sums_(data.float_sums) {
    double lowest = std::numeric_limits<double>::infinity();
    for (uint32_t id = 0; id < pieces.size(); ++id) {
      if (pieces[id].empty()) continue;
      trie_.Add(pieces[id], id);
      lowest = std::min(lowest, scores_[id]);
    }
    unknown_score_ = Sum(lowest, -kUnknownPenalty);
    if (unknown_ < pieces.size()) unknown_text_ = pieces[unknown_];
    byte_ids_.fill(kNone);
    if (data.byte_fallback) byte_ids_ = ByteTokenIds(data.tokens);
  }

  void Encode(absl::string_view word, std::vector<uint32_t>* ids) const override {
    const std::vector<Step> best = BestSteps(word);
    std::vector<Step> path;
    for (size_t end = word.size(); end > 0; end = path.back().begin) path.push_back(best[end]);
    size_t end = 0;
    for (size_t i = path.size(); i > 0; --i) {
      const size_t begin = end;
      end = i == 1 ? word.size() : path[i - 2].begin;
      if (!IsUnknown(path[i - 1])) {
        ids->push_back(path[i - 1].id);
        continue;
      }
      while (i > 1 && IsUnknown(path[i - 2])) {  // neighbouring unknown characters are one unknown text
        --i;
        end = i == 1 ? word.size() : path[i - 2].begin;
      }
      AppendUnknown(word.substr(begin, end - begin), ids);
    }
  }

 private:
  struct Step {
    double score = -std::numeric_limits<double>::infinity();  // of the whole way to here
    size_t begin = 0;                                         // where the last token starts
    uint32_t id = kNone;                                      // kNone: a character that no token starts with
  };

  bool IsUnknown(const Step& step) const { return step.id == kNone || step.id == unknown_; }
  double Sum(double a, double b) const { return float_sums_ ? static_cast<float>(a + b) : a + b; }

  // By end of the way, word.size() + 1 of them; only those at the ends of characters are set.
  std::vector<Step> BestSteps(absl::string_view word) const {
    std::vector<Step> best(word.size() + 1);
    best[0].score = 0;
    for (size_t at = 0, length = 0; at < word.size(); at += length) {
      NextUtf8(word.substr(at), &length);
      const double score = best[at].score;
      bool single = false;
      trie_.Walk(word.substr(at), [&](size_t bytes, uint32_t id) {
        Step& step = best[at + bytes];
        if (Sum(score, scores_[id]) > step.score) step = {Sum(score, scores_[id]), at, id};
        single |= bytes == length;
      });
      Step& step = best[at + length];
      const double with_unknown = Sum(score, unknown_score_);
      if (!single && with_unknown > step.score) step = {with_unknown, at, kNone};
    }
    return best;
  }

  void AppendUnknown(absl::string_view text, std::vector<uint32_t>* ids) const {
    const auto id = [&](char byte) { return byte_ids_[static_cast<uint8_t>(byte)]; };
    const bool bytes = text != unknown_text_;  // which is a token itself
    if (bytes && std::all_of(text.begin(), text.end(), [&](char byte) { return id(byte) != kNone; })) {
      for (char byte : text) ids->push_back(id(byte));
    } else if (unknown_ != kNone) {
      ids->push_back(unknown_);
    }
  }

  const std::vector<double> scores_;
  const uint32_t unknown_;
  const bool float_sums_;
  std::string unknown_text_;
  ByteTrie trie_;
  double unknown_score_ = 0;
  std::array<uint32_t, 256> byte_ids_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenModel>> CreateUnigram(const TokenizerData& data, Pieces pieces) {
  if (data.scores.size() != data.tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("scores: ", data.scores.size(), " for ", data.tokens.size(), " tokens"));
  }
  for (uint32_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].size() > kMaxPieceBytes) {
      return absl::InvalidArgumentError(absl::StrCat("vocabulary: token ", id, " has ", pieces[id].size(),
                                                     " bytes; at most ", kMaxPieceBytes));
    }
  }
  return std::make_unique<UnigramModel>(data, pieces);
}

}  // namespace hga
