#define PCRE2_CODE_UNIT_WIDTH 8
#include "gpu_worker/model/split_regex.h"

#include <pcre2.h>

#include "absl/strings/str_cat.h"

namespace hga {

absl::StatusOr<std::unique_ptr<SplitRegex>> SplitRegex::Create(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE where = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                   &error, &where, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("regular expression: error ", error, " at ", where));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT it is slower, not wrong
  return std::unique_ptr<SplitRegex>(new SplitRegex(code));
}

SplitRegex::~SplitRegex() { pcre2_code_free(code_); }

void SplitRegex::Split(absl::string_view text, std::vector<absl::string_view>* pieces) const {
  pcre2_match_data* match = pcre2_match_data_create_from_pattern(code_, nullptr);
  size_t done = 0;
  while (done < text.size()) {
    const int found = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), done,
                                  PCRE2_NO_UTF_CHECK, match, nullptr);
    if (found <= 0) break;
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match);
    if (range[1] <= range[0]) break;
    if (range[0] > done) pieces->push_back(text.substr(done, range[0] - done));
    pieces->push_back(text.substr(range[0], range[1] - range[0]));
    done = range[1];
  }
  if (done < text.size()) pieces->push_back(text.substr(done));
  pcre2_match_data_free(match);
}

}  // namespace hga
