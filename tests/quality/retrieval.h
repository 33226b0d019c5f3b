// Answers to retrieval samples, dense and routed.
#ifndef HGA_TESTS_QUALITY_RETRIEVAL_H_
#define HGA_TESTS_QUALITY_RETRIEVAL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/model/tokenizer.h"
#include "tests/quality/configuration.h"

namespace hga {

// A prompt as tokens; the question begins at token `question`.
struct Prompt {
  std::vector<uint32_t> tokens;
  size_t question = 0;
};

// question_offset: byte of `text` at which the question begins.
absl::StatusOr<Prompt> EncodePrompt(const Tokenizer& tokenizer, const std::string& text, size_t question_offset);

// The greedy continuation's text. What comes before the question is computed by the configuration's path, the question
// and the answer token by token by the decode path: the question is routed as the answer is.
absl::StatusOr<std::string> Answer(Backend* backend, const KvGeometry& g, const Tokenizer& tokenizer,
                                   const Configuration& configuration, const Prompt& prompt, size_t max_new_tokens);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_RETRIEVAL_H_
