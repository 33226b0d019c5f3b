// A Unicode regular expression that cuts a text into pieces.
#ifndef HGA_GPU_WORKER_MODEL_SPLIT_REGEX_H_
#define HGA_GPU_WORKER_MODEL_SPLIT_REGEX_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct pcre2_real_code_8;

namespace hga {

// Constant after Create; thread-safe.
class SplitRegex {
 public:
  struct Piece {
    absl::string_view text;
    bool match;
  };

  // Oniguruma's notation as tokenizer.json has it. INVALID_ARGUMENT: says where the pattern is wrong.
  static absl::StatusOr<std::unique_ptr<SplitRegex>> Create(const std::string& pattern);
  ~SplitRegex();

  // Appends matches and what lies between them, in order; together they are `text`, which must be valid UTF-8.
  // RESOURCE_EXHAUSTED: the pattern backtracks beyond the limit on this text.
  absl::Status Split(absl::string_view text, std::vector<Piece>* pieces) const;

 private:
  SplitRegex(pcre2_real_code_8* code, bool jit) : code_(code), jit_(jit) {}
  pcre2_real_code_8* const code_;
  const bool jit_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_SPLIT_REGEX_H_
