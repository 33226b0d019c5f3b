#include "gpu_worker/model/chat_template.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/white_space.h"

namespace hga {
namespace {

constexpr char kThought[] = "<think>", kThoughtEnd[] = "</think>";

std::string Trimmed(absl::string_view text) {
  text.remove_prefix(SpaceAtStart(text));
  text.remove_suffix(SpaceAtEnd(text));
  return std::string(text);
}

std::string WithoutLineEnds(std::string text, bool front, bool back) {
  if (back) text.erase(text.find_last_not_of('\n') + 1);
  if (front) text.erase(0, text.find_first_not_of('\n'));
  return text;
}

// Qwen3's rule for an assistant's message: its thoughts are shown only after the last question, and there always.
std::string ShownContent(const std::string& content, bool after_question, bool last) {
  std::string thoughts, said = content;
  const size_t end = content.rfind(kThoughtEnd);
  if (end != std::string::npos) {
    said = WithoutLineEnds(content.substr(end + sizeof(kThoughtEnd) - 1), true, false);
    thoughts = WithoutLineEnds(content.substr(0, content.find(kThoughtEnd)), false, true);
    const size_t begin = thoughts.rfind(kThought);
    if (begin != std::string::npos) thoughts.erase(0, begin + sizeof(kThought) - 1);
    thoughts = WithoutLineEnds(thoughts, true, false);
  }
  if (!after_question || (!last && thoughts.empty())) return said;
  return absl::StrCat(kThought, "\n", WithoutLineEnds(thoughts, true, true), "\n", kThoughtEnd, "\n\n",
                      WithoutLineEnds(said, true, false));
}

// The last message by a person; what a tool said is sent in the user's name too. messages.size(): there is none.
size_t LastQuestion(absl::Span<const ChatMessage> messages) {
  for (size_t i = messages.size(); i > 0; --i) {
    const ChatMessage& m = messages[i - 1];
    const bool tool = absl::StartsWith(m.content, "<tool_response>") && absl::EndsWith(m.content, "</tool_response>");
    if (m.role == "user" && !tool) return i - 1;
  }
  return messages.size();
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Create(const std::string& template_text, const Tokenizer* tokenizer) {
  HGA_ASSIGN_OR_RETURN(ChatStyle style, RecogniseChatStyle(template_text));
  return Create(std::move(style), tokenizer);
}

absl::StatusOr<ChatTemplate> ChatTemplate::Create(ChatStyle style, const Tokenizer* tokenizer) {
  ChatTemplate result;
  result.tokenizer_ = tokenizer;
  HGA_ASSIGN_OR_RETURN(result.start_, tokenizer->FindToken(style.start));
  HGA_ASSIGN_OR_RETURN(result.end_, tokenizer->FindToken(style.end));
  if (!style.role_end.empty()) {
    HGA_ASSIGN_OR_RETURN(result.role_end_, tokenizer->FindToken(style.role_end));
  }
  result.style_ = std::move(style);
  return result;
}

absl::Status ChatTemplate::AppendText(absl::string_view text, std::vector<uint32_t>* ids) const {
  if (text.empty()) return absl::OkStatus();
  HGA_ASSIGN_OR_RETURN(const auto more, tokenizer_->Encode(text, /*parse_special=*/false));
  ids->insert(ids->end(), more.begin(), more.end());
  return absl::OkStatus();
}

// The beginning of a message, with the text that follows: what no control token parts is encoded as one.
absl::Status ChatTemplate::AppendHeader(const std::string& role, const std::string& text,
                                        std::vector<uint32_t>* ids) const {
  ids->push_back(start_);
  if (style_.role_end.empty()) return AppendText(absl::StrCat(role, style_.gap, text), ids);
  HGA_RETURN_IF_ERROR(AppendText(role, ids));
  ids->push_back(role_end_);
  return AppendText(absl::StrCat(style_.gap, text), ids);
}

absl::Status ChatTemplate::Append(const std::string& role, const std::string& content,
                                  std::vector<uint32_t>* ids) const {
  if (role != "system" && role != "user" && role != "assistant") {
    return absl::InvalidArgumentError("a message's role is system, user or assistant");
  }
  HGA_RETURN_IF_ERROR(AppendHeader(role, content, ids));
  ids->push_back(end_);
  return AppendText(style_.after, ids);
}

absl::Status ChatTemplate::AppendMessages(absl::Span<const ChatMessage> messages, std::vector<uint32_t>* ids) const {
  const size_t question = LastQuestion(messages);
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    std::string content = style_.trim ? Trimmed(message.content) : message.content;
    if (style_.drop_thoughts && message.role == "assistant") {
      content = ShownContent(content, i > question, i + 1 == messages.size());
    }
    HGA_RETURN_IF_ERROR(Append(message.role, content, ids));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::AppendOpening(const ChatOptions& options, std::vector<uint32_t>* ids) const {
  return AppendHeader("assistant", options.thinking ? style_.thinking_opening : style_.no_thinking_opening, ids);
}

// Takes the system message from the front of `messages` where it is written with a preamble.
absl::Status ChatTemplate::AppendSystem(absl::Span<const ChatMessage>* messages, std::vector<uint32_t>* ids) const {
  const bool given = messages->front().role == "system";
  if (!style_.system_preamble.empty()) {
    const std::string content = given ? Trimmed(messages->front().content) : "";
    if (given) messages->remove_prefix(1);
    return Append("system", absl::StrCat(style_.system_preamble, content), ids);
  }
  if (given || style_.default_system.empty()) return absl::OkStatus();
  return Append("system", style_.default_system, ids);
}

absl::StatusOr<std::vector<uint32_t>> ChatTemplate::RenderChat(absl::Span<const ChatMessage> messages,
                                                               const ChatOptions& options) const {
  if (messages.empty()) return absl::InvalidArgumentError("the conversation has no message");
  std::vector<uint32_t> ids;
  if (style_.bos && tokenizer_->bos() != TokenizerData::kNone) ids.push_back(tokenizer_->bos());
  HGA_RETURN_IF_ERROR(AppendSystem(&messages, &ids));
  HGA_RETURN_IF_ERROR(AppendMessages(messages, &ids));
  HGA_RETURN_IF_ERROR(AppendOpening(options, &ids));
  return ids;
}

absl::StatusOr<std::vector<uint32_t>> ChatTemplate::RenderTurn(absl::Span<const ChatMessage> messages,
                                                               uint32_t last_token, const ChatOptions& options) const {
  if (messages.empty()) return absl::InvalidArgumentError("the conversation has no message");
  std::vector<uint32_t> ids;
  if (last_token != end_) ids.push_back(end_);
  HGA_RETURN_IF_ERROR(AppendText(style_.after, &ids));
  HGA_RETURN_IF_ERROR(AppendMessages(messages, &ids));
  HGA_RETURN_IF_ERROR(AppendOpening(options, &ids));
  return ids;
}

}  // namespace hga
