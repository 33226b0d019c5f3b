// How a family of models writes conversations down, told from the model's own template.
#ifndef HGA_GPU_WORKER_MODEL_CHAT_STYLE_H_
#define HGA_GPU_WORKER_MODEL_CHAT_STYLE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hga {

// A message is `start` role `role_end` `gap` content `end` `after`; of these only `gap` and `after` are plain text.
struct ChatStyle {
  std::string start, role_end, end;  // control tokens; role_end may be empty
  std::string gap, after;
  bool bos = false;             // the conversation begins with the model's BOS
  bool trim = false;            // contents lose the white space around them
  bool drop_thoughts = false;   // of what the assistant thought only that since the last question is shown
  std::string default_system;   // where the conversation has no system message; empty: none
  std::string system_preamble;  // goes before the system message, which is then always there
  std::string thinking_opening, no_thinking_opening;  // how the assistant's answer begins, thinking or not
};

// Reads features of the Jinja text; does not run it. FAILED_PRECONDITION: it has some that are not known; the message
// names them and --chat_template.
absl::StatusOr<ChatStyle> RecogniseChatStyle(const std::string& template_text);

// By the value of --chat_template. INVALID_ARGUMENT lists the names.
absl::StatusOr<ChatStyle> FindChatStyle(absl::string_view name);
std::string ChatStyleNames();

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_CHAT_STYLE_H_
