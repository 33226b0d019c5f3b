#include "tests/quality/retrieval.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "tests/quality/sequence_run.h"

namespace hga {
namespace {

constexpr uint32_t kStepTokens = 256;

}  // namespace

absl::StatusOr<Prompt> EncodePrompt(const Tokenizer& tokenizer, const std::string& text, size_t question_offset) {
  Prompt prompt;
  HGA_ASSIGN_OR_RETURN(prompt.tokens, tokenizer.Encode(text, false));
  for (size_t bytes = 0; prompt.question < prompt.tokens.size() && bytes < question_offset; ++prompt.question) {
    bytes += tokenizer.TokenBytes(prompt.tokens[prompt.question]).size();
  }
  if (tokenizer.add_bos()) {
    prompt.tokens.insert(prompt.tokens.begin(), tokenizer.bos());
    ++prompt.question;
  }
  if (prompt.question >= prompt.tokens.size()) return absl::InvalidArgumentError("the prompt ends before its question");
  return prompt;
}

absl::StatusOr<std::string> Answer(Backend* backend, const KvGeometry& g, const Tokenizer& tokenizer,
                                   const Configuration& configuration, const Prompt& prompt, size_t max_new_tokens) {
  HGA_ASSIGN_OR_RETURN(auto selector, CreateSelector(configuration, g));
  SequenceRun run(backend, g, std::move(selector));
  const auto tokens = absl::MakeConstSpan(prompt.tokens);
  std::vector<float> logits;
  while (run.length() < tokens.size()) {
    const bool asking = run.length() >= prompt.question;
    const size_t end = asking ? tokens.size() : prompt.question;
    const auto step = tokens.subspan(run.length(), std::min<size_t>(kStepTokens, end - run.length()));
    const bool last = run.length() + step.size() == tokens.size();
    const auto first_wanted = static_cast<uint32_t>(last ? step.size() - 1 : step.size());
    HGA_RETURN_IF_ERROR(run.Step(asking ? Path::kDecode : configuration.path, step, first_wanted, &logits));
  }
  StreamDecoder decoder(&tokenizer);
  std::string text;
  for (size_t i = 0; i < max_new_tokens; ++i) {
    const auto token = static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    if (std::find(tokenizer.ends().begin(), tokenizer.ends().end(), token) != tokenizer.ends().end()) break;
    text += decoder.Add(token);
    if (i + 1 < max_new_tokens) HGA_RETURN_IF_ERROR(run.Step(Path::kDecode, {token}, 0, &logits));
  }
  return text + decoder.Finish();
}

}  // namespace hga
