#include "gpu_worker/model/pre_tokenizer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"

namespace hga {
namespace {

using Kind = SplitStep::Kind;

// The text with blanks as U+2581, one put first where the file asks for it.
std::string Metaspaced(absl::string_view piece, SplitStep::Prepend prepend, bool first) {
  std::string text = absl::StrReplaceAll(piece, {{" ", kMetaspace}});
  const bool wanted = prepend == SplitStep::Prepend::kAlways || (prepend == SplitStep::Prepend::kFirst && first);
  if (wanted && !absl::StartsWith(text, kMetaspace)) text.insert(0, kMetaspace);
  return text;
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Create(std::vector<SplitStep> steps) {
  PreTokenizer result;
  for (SplitStep& data : steps) {
    Step step;
    if (data.kind == Kind::kIsolate || data.kind == Kind::kRemove) {
      HGA_ASSIGN_OR_RETURN(step.regex, SplitRegex::Create(data.pattern));
    }
    step.data = std::move(data);
    result.steps_.push_back(std::move(step));
  }
  return result;
}

absl::Status PreTokenizer::Split(absl::string_view text, bool first, Words* out) const {
  out->words.assign(1, text);
  std::vector<absl::string_view> pieces;
  std::vector<SplitRegex::Piece> cuts;
  for (const Step& step : steps_) {
    std::swap(pieces, out->words);
    out->words.clear();
    const SplitStep& data = step.data;
    for (absl::string_view piece : pieces) {
      if (piece.empty()) continue;
      if (step.regex != nullptr) {
        cuts.clear();
        HGA_RETURN_IF_ERROR(step.regex->Split(piece, &cuts));
        for (const auto& cut : cuts) {
          if (data.kind == Kind::kIsolate || cut.match == data.invert) out->words.push_back(cut.text);
        }
      } else if (data.kind == Kind::kPrefixSpace) {
        if (piece[0] != ' ') piece = out->made.emplace_back(absl::StrCat(" ", piece));
        out->words.push_back(piece);
      } else {
        out->made.push_back(Metaspaced(piece, data.prepend, first && piece.data() == text.data()));
        if (data.split) {
          size_t begin = 0;
          const std::string& made = out->made.back();
          for (size_t at = 0; (at = made.find(kMetaspace, begin + 1)) != std::string::npos; begin = at) {
            out->words.push_back(absl::string_view(made).substr(begin, at - begin));
          }
          out->words.push_back(absl::string_view(made).substr(begin));
        } else {
          out->words.push_back(out->made.back());
        }
      }
    }
  }
  return absl::OkStatus();
}

void SplitAtMetaspace(absl::string_view text, std::vector<absl::string_view>* words) {
  constexpr size_t kLength = sizeof(kMetaspace) - 1;
  size_t begin = 0;
  for (size_t at = 0; (at = text.find(kMetaspace, at)) != absl::string_view::npos; at += kLength) {
    const bool after_another = at >= begin + kLength && text.substr(at - kLength, kLength) == kMetaspace;
    if (at == begin || after_another) continue;
    words->push_back(text.substr(begin, at - begin));
    begin = at;
  }
  if (begin < text.size()) words->push_back(text.substr(begin));
}

}  // namespace hga
