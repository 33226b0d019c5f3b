#include "gpu_worker/model/chat_template.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr char kStart[] = "<|im_start|>";
constexpr char kEnd[] = "<|im_end|>";

// The system message that a template puts first where the conversation has none: the text between the literal
// '<|im_start|>system' and '<|im_end|>' of the template's first branch.
std::string DefaultSystem(const std::string& source) {
  // Jinja's strings may spell line ends out.
  const std::string text = absl::StrReplaceAll(source, {{"\\n", "\n"}});
  const std::string opening = absl::StrCat("'", kStart, "system\n");
  const size_t begin = text.find(opening);
  if (begin == std::string::npos) return "";
  const size_t end = text.find(kEnd, begin + opening.size());
  const std::string system = text.substr(begin + opening.size(), end - begin - opening.size());
  // A quote or brace means that it is put together at run time: no fixed text.
  return end == std::string::npos || system.find_first_of("'{") != std::string::npos ? "" : system;
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Create(const std::string& template_text, const Tokenizer* tokenizer) {
  if (!absl::StrContains(template_text, kStart) || !absl::StrContains(template_text, kEnd)) {
    return absl::FailedPreconditionError(
        "the model's chat template is not ChatML, the one that is supported; send raw text instead (hga generate "
        "--raw), or start the worker with --chat_template=chatml");
  }
  ChatTemplate result;
  result.tokenizer_ = tokenizer;
  result.default_system_ = DefaultSystem(template_text);
  HGA_ASSIGN_OR_RETURN(result.start_, tokenizer->FindToken(kStart));
  HGA_ASSIGN_OR_RETURN(result.end_, tokenizer->FindToken(kEnd));
  return result;
}

absl::Status ChatTemplate::AppendText(absl::string_view text, std::vector<uint32_t>* ids) const {
  HGA_ASSIGN_OR_RETURN(const auto more, tokenizer_->Encode(text, /*parse_special=*/false));
  ids->insert(ids->end(), more.begin(), more.end());
  return absl::OkStatus();
}

absl::Status ChatTemplate::Append(const ChatMessage& message, std::vector<uint32_t>* ids) const {
  if (message.role != "system" && message.role != "user" && message.role != "assistant") {
    return absl::InvalidArgumentError("a message's role is system, user or assistant");
  }
  ids->push_back(start_);
  HGA_RETURN_IF_ERROR(AppendText(absl::StrCat(message.role, "\n", message.content), ids));
  ids->push_back(end_);
  return AppendText("\n", ids);
}

absl::StatusOr<std::vector<uint32_t>> ChatTemplate::RenderChat(absl::Span<const ChatMessage> messages) const {
  if (messages.empty()) return absl::InvalidArgumentError("the conversation has no message");
  std::vector<uint32_t> ids;
  if (messages[0].role != "system" && !default_system_.empty()) {
    HGA_RETURN_IF_ERROR(Append({"system", default_system_}, &ids));
  }
  for (const ChatMessage& message : messages) HGA_RETURN_IF_ERROR(Append(message, &ids));
  ids.push_back(start_);
  HGA_RETURN_IF_ERROR(AppendText("assistant\n", &ids));
  return ids;
}

absl::StatusOr<std::vector<uint32_t>> ChatTemplate::RenderTurn(absl::Span<const ChatMessage> messages,
                                                               uint32_t last_token) const {
  if (messages.empty()) return absl::InvalidArgumentError("the conversation has no message");
  std::vector<uint32_t> ids;
  if (last_token != end_) ids.push_back(end_);
  HGA_RETURN_IF_ERROR(AppendText("\n", &ids));
  for (const ChatMessage& message : messages) HGA_RETURN_IF_ERROR(Append(message, &ids));
  ids.push_back(start_);
  HGA_RETURN_IF_ERROR(AppendText("assistant\n", &ids));
  return ids;
}

}  // namespace hga
