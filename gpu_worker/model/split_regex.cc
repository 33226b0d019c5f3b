#define PCRE2_CODE_UNIT_WIDTH 8
#include "gpu_worker/model/split_regex.h"

#include <pcre2.h>

#include "absl/strings/str_cat.h"

namespace hga {
namespace {

constexpr uint32_t kMatchLimit = 50000000;  // steps within one match; a run of a million blanks takes a few million
constexpr size_t kJitStackBytes = 1 << 20, kHeapLimitKb = 64 << 10, kMaxPatternBytes = 64 << 10;

// PCRE2's \s holds U+180E and its \w leaves marks out, unlike Oniguruma's.
constexpr char kSpace[] = R"(\x09-\x0d\x85\p{Z})";
constexpr char kWord[] = R"(\p{L}\p{M}\p{Nd}\p{Pc})";

absl::StatusOr<std::string> Translate(const std::string& pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\' || i + 1 == pattern.size()) {
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      out.push_back(c);
      continue;
    }
    const char escaped = pattern[++i];
    const char* set = escaped == 's' || escaped == 'S' ? kSpace : escaped == 'w' || escaped == 'W' ? kWord : nullptr;
    const bool negated = escaped == 'S' || escaped == 'W';
    if (set == nullptr) {
      out += {c, escaped};
    } else if (!in_class) {
      absl::StrAppend(&out, negated ? "[^" : "[", set, "]");
    } else if (!negated) {
      out += set;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("regular expression '", pattern, "': \\",
                                                     std::string(1, escaped), " inside [] is not supported"));
    }
  }
  return out;
}

// What a match needs to run; one per thread, for it costs more to make than most matches take.
struct Workspace {
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr);

  Workspace() {
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKb);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Workspace() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<SplitRegex>> SplitRegex::Create(const std::string& pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat("regular expression of ", pattern.size(), " bytes; at most ",
                                                   kMaxPatternBytes));
  }
  const auto translated = Translate(pattern);
  if (!translated.ok()) return translated.status();
  int error = 0;
  PCRE2_SIZE where = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &where, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[128] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(absl::StrCat("regular expression '", pattern, "': ",
                                                   reinterpret_cast<const char*>(message), " at ", where));
  }
  const bool jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;  // without JIT it is slower, not wrong
  return std::unique_ptr<SplitRegex>(new SplitRegex(code, jit));
}

SplitRegex::~SplitRegex() { pcre2_code_free(code_); }

absl::Status SplitRegex::Split(absl::string_view text, std::vector<Piece>* pieces) const {
  thread_local const Workspace work;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(work.match);
  size_t done = 0, from = 0;
  while (from < text.size()) {
    const int found =
        jit_ ? pcre2_jit_match(code_, subject, text.size(), from, 0, work.match, work.context)
             : pcre2_match(code_, subject, text.size(), from, PCRE2_NO_UTF_CHECK, work.match, work.context);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("the tokenizer's regular expression fails on this text at byte ",
                                                       from, " (PCRE2 error ", found, ")"));
    }
    if (range[1] <= range[0] || range[1] <= from) {  // an empty match cuts nothing
      for (++from; from < text.size() && (static_cast<uint8_t>(text[from]) & 0xc0) == 0x80;) ++from;
      continue;
    }
    if (range[0] > done) pieces->push_back({text.substr(done, range[0] - done), false});
    pieces->push_back({text.substr(range[0], range[1] - range[0]), true});
    done = from = range[1];
  }
  if (done < text.size()) pieces->push_back({text.substr(done), false});
  return absl::OkStatus();
}

}  // namespace hga
