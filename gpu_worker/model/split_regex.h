// A Unicode regular expression that cuts a text into pieces.
#ifndef HGA_GPU_WORKER_MODEL_SPLIT_REGEX_H_
#define HGA_GPU_WORKER_MODEL_SPLIT_REGEX_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct pcre2_real_code_8;

namespace hga {

// Constant after Create; thread-safe.
class SplitRegex {
 public:
  static absl::StatusOr<std::unique_ptr<SplitRegex>> Create(const std::string& pattern);
  ~SplitRegex();

  // Matches and what lies between them, in order; together they are `text`, which must be valid UTF-8.
  void Split(absl::string_view text, std::vector<absl::string_view>* pieces) const;

 private:
  explicit SplitRegex(pcre2_real_code_8* code) : code_(code) {}
  pcre2_real_code_8* const code_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_SPLIT_REGEX_H_
