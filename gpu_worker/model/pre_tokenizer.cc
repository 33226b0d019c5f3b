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
  out->made.clear();
  out->words.assign(1, text);
  std::vector<absl::string_view> pieces;
  for (const Step& step : steps_) {
    std::swap(pieces, out->words);
    out->words.clear();
    for (absl::string_view piece : pieces) {
      if (piece.empty()) continue;
      HGA_RETURN_IF_ERROR(Apply(step, piece, first && piece.data() == text.data(), out));
    }
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::Apply(const Step& step, absl::string_view piece, bool first, Words* out) {
  const SplitStep& data = step.data;
  switch (data.kind) {
    case Kind::kIsolate:
    case Kind::kRemove: {
      std::vector<SplitRegex::Piece> cuts;
      HGA_RETURN_IF_ERROR(step.regex->Split(piece, &cuts));
      for (const auto& cut : cuts) {
        if (data.kind == Kind::kIsolate || cut.match == data.invert) out->words.push_back(cut.text);
      }
      break;
    }
    case Kind::kPrefixSpace:
      if (piece[0] != ' ') piece = out->made.emplace_back(absl::StrCat(" ", piece));
      out->words.push_back(piece);
      break;
    case Kind::kMetaspace: {
      const absl::string_view made = out->made.emplace_back(Metaspaced(piece, data.prepend, first));
      size_t begin = 0, at = 0;
      while (data.split && (at = made.find(kMetaspace, begin + 1)) != absl::string_view::npos) {
        out->words.push_back(made.substr(begin, at - begin));
        begin = at;
      }
      out->words.push_back(made.substr(begin));
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
