#include "gpu_worker/model/text_normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "absl/strings/str_replace.h"

namespace hga {
namespace {

using Kind = NormalizeStep::Kind;

struct CodePoint {
  utf8proc_int32_t code;
  utf8proc_propval_t order;  // canonical combining class
};

utf8proc_option_t Options(Kind kind) {
  const int composed = kind == Kind::kNfc || kind == Kind::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  const int compatible = kind == Kind::kNfkc || kind == Kind::kNfkd ? UTF8PROC_COMPAT : 0;
  return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | composed | compatible);
}

std::vector<CodePoint> Decompose(absl::string_view text, utf8proc_option_t options) {
  constexpr int kLongest = 32;  // U+FDFA has 18
  std::vector<CodePoint> points;
  points.reserve(text.size());
  const auto* next = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto* const end = next + text.size();
  const auto decompose = static_cast<utf8proc_option_t>((options & ~UTF8PROC_COMPOSE) | UTF8PROC_DECOMPOSE);
  while (next < end) {
    utf8proc_int32_t code, parts[kLongest];
    next += std::max<utf8proc_ssize_t>(utf8proc_iterate(next, end - next, &code), 1);
    int boundary = 0;
    const auto count = code < 0x80 ? 0 : utf8proc_decompose_char(code, parts, kLongest, decompose, &boundary);
    if (count < 1 || count > kLongest) {
      points.push_back({code, 0});
      continue;
    }
    for (int i = 0; i < count; ++i) points.push_back({parts[i], utf8proc_get_property(parts[i])->combining_class});
  }
  return points;
}

// utf8proc_map would do all of this, but sorts marks by swapping neighbours: hours for a megabyte of them.
std::string Unicode(Kind kind, const std::string& text) {
  // ASCII is its own normal form in all four.
  if (std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; })) return text;
  std::vector<CodePoint> points = Decompose(text, Options(kind));
  const auto is_mark = [](const CodePoint& point) { return point.order != 0; };
  for (auto begin = points.begin(); begin != points.end();) {
    begin = std::find_if(begin, points.end(), is_mark);
    const auto end = std::find_if_not(begin, points.end(), is_mark);
    std::stable_sort(begin, end, [](const CodePoint& a, const CodePoint& b) { return a.order < b.order; });
    begin = end;
  }
  std::vector<utf8proc_int32_t> codes(points.size());
  std::transform(points.begin(), points.end(), codes.begin(), [](const CodePoint& point) { return point.code; });
  const utf8proc_ssize_t count =
      utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), Options(kind));
  std::string result;
  result.reserve(text.size());
  utf8proc_uint8_t bytes[4];
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    const auto length = utf8proc_encode_char(codes[i], bytes);
    result.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
  }
  return result;
}

// SentencePiece's remove_extra_whitespaces.
std::string CollapseSpaces(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c != ' ' || (!out.empty() && out.back() != ' ')) out.push_back(c);
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace

absl::StatusOr<std::string> NormalizeText(const std::vector<NormalizeStep>& steps, absl::string_view text) {
  const size_t limit = (text.size() + 4096) * 64;  // a file's own replacements could grow a text without end
  std::string result(text);
  for (const NormalizeStep& step : steps) {
    switch (step.kind) {
      case Kind::kPrepend:
        if (!result.empty()) result.insert(0, step.to);
        break;
      case Kind::kReplace:
        if (step.to.size() * (result.size() / step.from.size()) > limit) {
          return absl::ResourceExhaustedError("the tokenizer's normalizer makes the text too long");
        }
        result = absl::StrReplaceAll(result, {{step.from, step.to}});
        break;
      case Kind::kCollapseSpaces:
        result = CollapseSpaces(result);
        break;
      default:
        result = Unicode(step.kind, result);
    }
  }
  return result;
}

}  // namespace hga
