// Turns a conversation into the token ids that the model was trained on.
#ifndef HGA_GPU_WORKER_MODEL_CHAT_TEMPLATE_H_
#define HGA_GPU_WORKER_MODEL_CHAT_TEMPLATE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gpu_worker/model/chat_style.h"
#include "gpu_worker/model/tokenizer.h"

namespace hga {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

struct ChatOptions {
  bool thinking = true;  // false: of models that can do both, an answer without thoughts
};

// What users write is never parsed for control tokens. Constant after Create; thread-safe.
class ChatTemplate {
 public:
  // template_text: the file's own Jinja text, by which the style is recognised; FAILED_PRECONDITION if it is not.
  static absl::StatusOr<ChatTemplate> Create(const std::string& template_text, const Tokenizer* tokenizer);
  // NOT_FOUND: the vocabulary lacks one of the style's control tokens.
  static absl::StatusOr<ChatTemplate> Create(ChatStyle style, const Tokenizer* tokenizer);

  // A whole conversation, ending where the assistant speaks. INVALID_ARGUMENT: unknown role, no message, not UTF-8.
  absl::StatusOr<std::vector<uint32_t>> RenderChat(absl::Span<const ChatMessage> messages,
                                                   const ChatOptions& options = {}) const;
  // What follows `last_token` of a conversation whose assistant has just spoken. What it thought stays as it is.
  absl::StatusOr<std::vector<uint32_t>> RenderTurn(absl::Span<const ChatMessage> messages, uint32_t last_token,
                                                   const ChatOptions& options = {}) const;

  uint32_t end_of_turn() const { return end_; }

 private:
  absl::Status Append(const std::string& role, const std::string& content, std::vector<uint32_t>* ids) const;
  absl::Status AppendMessages(absl::Span<const ChatMessage> messages, std::vector<uint32_t>* ids) const;
  absl::Status AppendSystem(absl::Span<const ChatMessage>* messages, std::vector<uint32_t>* ids) const;
  absl::Status AppendOpening(const ChatOptions& options, std::vector<uint32_t>* ids) const;
  absl::Status AppendHeader(const std::string& role, const std::string& text, std::vector<uint32_t>* ids) const;
  absl::Status AppendText(absl::string_view text, std::vector<uint32_t>* ids) const;

  const Tokenizer* tokenizer_ = nullptr;
  ChatStyle style_;
  uint32_t start_ = 0;
  uint32_t role_end_ = 0;  // only where style_.role_end is not empty
  uint32_t end_ = 0;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_CHAT_TEMPLATE_H_
