#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/base/utf8.h"
#include "gpu_worker/model/byte_alphabet.h"
#include "gpu_worker/model/pre_tokenizer.h"
#include "gpu_worker/model/tokenizer_model.h"

namespace hga {
namespace {

constexpr uint32_t kNone = TokenizerData::kNone;
constexpr size_t kMaxScoredBytes = 1024;  // SentencePiece's longest piece has 16 characters by default

uint64_t PairKey(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

struct Candidate {
  uint32_t rank;
  int at;
  uint32_t left, right, merged;
  bool operator>(const Candidate& o) const { return std::tie(rank, at) > std::tie(o.rank, o.at); }
};

// What the merging of one word works on; kept between words.
struct Scratch {
  std::vector<uint32_t> symbol;
  std::vector<int> next, previous;
  std::vector<Candidate> heap;
};

class BpeModel : public TokenModel {
 public:
  absl::Status Init(const TokenizerData& data, Pieces pieces);
  void Encode(absl::string_view word, std::vector<uint32_t>* ids) const override;

 private:
  struct Merge {
    uint32_t rank;
    uint32_t id;
  };

  absl::Status IndexPieces();
  absl::Status IndexMerges(const TokenizerData& data);
  absl::Status MakeMergesFromScores(const std::vector<double>& scores);
  void FindWholeWords();
  uint32_t Find(absl::string_view piece) const;
  void EncodeWord(absl::string_view word, std::vector<uint32_t>* ids) const;
  void FirstSymbols(absl::string_view word, std::vector<uint32_t>* symbols) const;
  void MergeSymbols(Scratch* work, std::vector<uint32_t>* ids) const;

  // Constant after Init.
  Pieces pieces_;
  absl::flat_hash_map<absl::string_view, uint32_t> index_;  // views into pieces_
  absl::flat_hash_map<uint64_t, Merge> merges_;             // by PairKey
  std::vector<bool> whole_;  // by id: its text becomes this one token, no need to merge
  std::array<uint32_t, 256> byte_ids_;
  bool bytes_ = false;         // symbols are bytes at first, else characters
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  bool split_blanks_ = false;  // no token goes on over the blank after a character: words can be cut there
  uint32_t unknown_ = kNone;
};

absl::Status BpeModel::Init(const TokenizerData& data, Pieces pieces) {
  pieces_ = std::move(pieces);
  bytes_ = data.model == TokenizerData::Model::kByteBpe;
  byte_fallback_ = data.byte_fallback;
  fuse_unknown_ = data.fuse_unknown;
  unknown_ = data.unknown;
  HGA_RETURN_IF_ERROR(IndexPieces());
  if (bytes_) {
    for (int byte = 0; byte < 256; ++byte) {
      const char text = static_cast<char>(byte);
      byte_ids_[byte] = Find(absl::string_view(&text, 1));
      if (byte_ids_[byte] == kNone && byte >= ' ' && byte <= '~') {
        return absl::InvalidArgumentError(absl::StrCat("vocabulary: no token for byte ", byte));
      }
    }
  } else {
    byte_ids_ = ByteTokenIds(data.tokens);
  }
  HGA_RETURN_IF_ERROR(data.merges.empty() && !data.scores.empty() ? MakeMergesFromScores(data.scores)
                                                                   : IndexMerges(data));
  split_blanks_ = !bytes_ && std::all_of(pieces_.begin(), pieces_.end(), [](const std::string& piece) {
    std::vector<absl::string_view> words;
    SplitAtMetaspace(piece, &words);
    return words.size() <= 1;
  });
  whole_.assign(pieces_.size(), data.ignore_merges);
  if (!data.ignore_merges) FindWholeWords();
  return absl::OkStatus();
}

absl::Status BpeModel::IndexPieces() {
  index_.reserve(pieces_.size());
  for (uint32_t id = 0; id < pieces_.size(); ++id) {
    if (pieces_[id].empty()) continue;
    const auto [at, added] = index_.emplace(pieces_[id], id);
    if (!added) {
      return absl::InvalidArgumentError(
          absl::StrCat("vocabulary: ids ", at->second, " and ", id, " are the same token"));
    }
  }
  return absl::OkStatus();
}

uint32_t BpeModel::Find(absl::string_view piece) const {
  const auto found = index_.find(piece);
  return found == index_.end() ? kNone : found->second;
}

absl::Status BpeModel::IndexMerges(const TokenizerData& data) {
  merges_.reserve(data.merges.size());
  std::string left, right;
  for (uint32_t rank = 0; rank < data.merges.size(); ++rank) {
    const auto& merge = data.merges[rank];
    const auto wrong = [&](const std::string& what) {
      return absl::InvalidArgumentError(
          absl::StrCat("merges: entry ", rank, " ('", merge.first, "', '", merge.second, "') ", what));
    };
    // Only an empty part could make a merge that gives its own part again, without end.
    if (merge.first.empty() || merge.second.empty()) return wrong("has an empty part");
    if (bytes_) {
      if (!FromByteAlphabet(merge.first, &left) || !FromByteAlphabet(merge.second, &right)) {
        return wrong("has a character that stands for no byte");
      }
    } else {
      left = merge.first;
      right = merge.second;
    }
    const uint32_t left_id = Find(left), right_id = Find(right), both = Find(left + right);
    if (left_id == kNone || right_id == kNone || both == kNone) {
      return wrong("joins or makes a token that the vocabulary does not have");
    }
    const auto [at, added] = merges_.emplace(PairKey(left_id, right_id), Merge{rank, both});
    if (!added) return wrong(absl::StrCat("stands there twice, first as entry ", at->second.rank));
  }
  return absl::OkStatus();
}

// SentencePiece keeps no list of merges: of all neighbours that make a token, those with the best score come first.
absl::Status BpeModel::MakeMergesFromScores(const std::vector<double>& scores) {
  std::vector<uint32_t> order(pieces_.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
  uint32_t rank = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const uint32_t id = order[i];
    if (i > 0 && scores[id] < scores[order[i - 1]]) ++rank;
    const absl::string_view piece = pieces_[id];
    if (piece.size() > kMaxScoredBytes) {
      return absl::InvalidArgumentError(absl::StrCat("vocabulary: token ", id, " has ", piece.size(),
                                                     " bytes; at most ", kMaxScoredBytes));
    }
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      const uint32_t left = Find(piece.substr(0, cut));
      const uint32_t right = left == kNone ? kNone : Find(piece.substr(cut));
      if (right != kNone) merges_.emplace(PairKey(left, right), Merge{rank, id});
    }
  }
  return absl::OkStatus();
}

void BpeModel::FindWholeWords() {
  std::vector<uint32_t> ids;
  for (uint32_t id = 0; id < pieces_.size(); ++id) {
    if (pieces_[id].empty()) continue;
    ids.clear();
    EncodeWord(pieces_[id], &ids);
    whole_[id] = ids.size() == 1 && ids[0] == id;
  }
}

void BpeModel::Encode(absl::string_view word, std::vector<uint32_t>* ids) const {
  if (!split_blanks_) return EncodeWord(word, ids);
  std::vector<absl::string_view> words;
  SplitAtMetaspace(word, &words);
  for (absl::string_view part : words) EncodeWord(part, ids);
}

void BpeModel::EncodeWord(absl::string_view word, std::vector<uint32_t>* ids) const {
  const uint32_t id = Find(word);
  if (id != kNone && whole_[id]) {
    ids->push_back(id);
    return;
  }
  thread_local Scratch work;
  work.symbol.clear();
  FirstSymbols(word, &work.symbol);
  MergeSymbols(&work, ids);
}

void BpeModel::FirstSymbols(absl::string_view word, std::vector<uint32_t>* symbols) const {
  if (bytes_) {
    for (char byte : word) {
      const uint32_t id = byte_ids_[static_cast<uint8_t>(byte)];
      if (id != kNone) symbols->push_back(id);
    }
    return;
  }
  bool after_unknown = false;
  for (size_t at = 0, length = 0; at < word.size(); at += length) {
    NextUtf8(word.substr(at), &length);
    const absl::string_view character = word.substr(at, length);
    if (const uint32_t id = Find(character); id != kNone) {
      symbols->push_back(id);
      after_unknown = false;
      continue;
    }
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<uint8_t>(byte)]; };
    if (byte_fallback_ &&
        std::all_of(character.begin(), character.end(), [&](char byte) { return byte_id(byte) != kNone; })) {
      for (char byte : character) symbols->push_back(byte_id(byte));
    } else if (unknown_ != kNone && !(fuse_unknown_ && after_unknown)) {
      symbols->push_back(unknown_);
      after_unknown = true;
    }
  }
}

// Merges the best-ranked neighbours until none is left. Symbols form a linked list; a heap entry whose symbols have
// changed since it was pushed is stale and passed over.
void BpeModel::MergeSymbols(Scratch* work, std::vector<uint32_t>* ids) const {
  std::vector<uint32_t>& symbol = work->symbol;
  std::vector<int>& next = work->next;
  std::vector<int>& previous = work->previous;
  std::vector<Candidate>& heap = work->heap;
  const int count = static_cast<int>(symbol.size());
  next.resize(count);
  previous.resize(count);
  heap.clear();
  const auto find = [&](int at) {
    if (at < 0 || next[at] >= count) return false;
    const auto merge = merges_.find(PairKey(symbol[at], symbol[next[at]]));
    if (merge == merges_.end()) return false;
    heap.push_back({merge->second.rank, at, symbol[at], symbol[next[at]], merge->second.id});
    return true;
  };
  const auto push = [&](int at) {
    if (find(at)) std::push_heap(heap.begin(), heap.end(), std::greater<Candidate>());
  };
  for (int i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  for (int i = 0; i + 1 < count; ++i) find(i);
  std::make_heap(heap.begin(), heap.end(), std::greater<Candidate>());
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<Candidate>());
    heap.pop_back();
    if (symbol[best.at] != best.left || next[best.at] >= count || symbol[next[best.at]] != best.right) continue;
    const int gone = next[best.at];
    symbol[best.at] = best.merged;
    symbol[gone] = kNone;
    next[best.at] = next[gone];
    if (next[gone] < count) previous[next[gone]] = best.at;
    push(previous[best.at]);
    push(best.at);
  }
  for (int i = 0; i < count; i = next[i]) ids->push_back(symbol[i]);
}

}  // namespace

std::array<uint32_t, 256> ByteTokenIds(const std::vector<std::string>& tokens) {
  std::array<uint32_t, 256> ids;
  ids.fill(kNone);
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
  for (uint32_t id = 0; id < tokens.size(); ++id) {
    const std::string& token = tokens[id];
    if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') continue;
    const int high = digit(token[3]), low = digit(token[4]);
    if (high >= 0 && low >= 0) ids[high << 4 | low] = id;
  }
  return ids;
}

absl::StatusOr<std::unique_ptr<TokenModel>> CreateBpe(const TokenizerData& data, Pieces pieces) {
  auto model = std::make_unique<BpeModel>();
  HGA_RETURN_IF_ERROR(model->Init(data, std::move(pieces)));
  return model;
}

}  // namespace hga
