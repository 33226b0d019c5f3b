// Cuts a normalised text into the words that the model encodes one by one.
#ifndef HGA_GPU_WORKER_MODEL_PRE_TOKENIZER_H_
#define HGA_GPU_WORKER_MODEL_PRE_TOKENIZER_H_

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gpu_worker/model/split_regex.h"
#include "gpu_worker/model/tokenizer_data.h"

namespace hga {

// U+2581, which stands for a blank in SentencePiece's vocabularies.
inline constexpr char kMetaspace[] = "\xe2\x96\x81";

// The words of one text, and the storage of those that are not parts of it.
struct Words {
  std::vector<absl::string_view> words;
  std::deque<std::string> made;
};

// Constant after Create; thread-safe.
class PreTokenizer {
 public:
  static absl::StatusOr<PreTokenizer> Create(std::vector<SplitStep> steps);

  // first: `text` begins the text that the caller gave. The words live as long as `text` and `out`.
  absl::Status Split(absl::string_view text, bool first, Words* out) const;

 private:
  struct Step {
    SplitStep data;
    std::shared_ptr<const SplitRegex> regex;
  };

  // Appends what the step makes of one piece. first: it begins the text that the caller gave.
  static absl::Status Apply(const Step& step, absl::string_view piece, bool first, Words* out);

  std::vector<Step> steps_;
};

// Cuts before every U+2581 that follows another character.
void SplitAtMetaspace(absl::string_view text, std::vector<absl::string_view>* words);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_PRE_TOKENIZER_H_
