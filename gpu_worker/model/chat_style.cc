#include "gpu_worker/model/chat_style.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace hga {
namespace {

constexpr char kThink[] = "<think>\n", kNoThoughts[] = "<think>\n\n</think>\n\n";
constexpr char kQwen25System[] = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
// The template's own date. Today's, which transformers takes in Llama 3.2's, would make every day another prefix of
// all conversations, and yesterday's stored keys and values useless.
constexpr char kLlama31Preamble[] = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

ChatStyle ChatMl() {
  ChatStyle style;
  style.start = "<|im_start|>";
  style.end = "<|im_end|>";
  style.gap = style.after = "\n";
  return style;
}

ChatStyle Llama3() {
  ChatStyle style;
  style.start = "<|start_header_id|>";
  style.role_end = "<|end_header_id|>";
  style.end = "<|eot_id|>";
  style.gap = "\n\n";
  style.bos = true;
  style.trim = true;
  return style;
}

absl::Status Unknown(const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrCat("the model's chat template is not one that is known (", why, "); start the worker with ",
                   "--chat_template=NAME, one of ", ChatStyleNames(),
                   ", or send raw text instead (hga generate --raw)"));
}

// The first <|name|> of the text that is not among those expected; "" if there is none.
std::string UnexpectedToken(absl::string_view text, std::initializer_list<absl::string_view> expected) {
  for (size_t at = 0; (at = text.find("<|", at)) != absl::string_view::npos; at += 2) {
    const size_t end = text.find("|>", at);
    if (end == absl::string_view::npos) break;
    const absl::string_view name = text.substr(at + 2, end - at - 2);
    const bool is_token = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    });
    if (is_token && std::find(expected.begin(), expected.end(), name) == expected.end()) {
      return absl::StrCat("<|", name, "|>");
    }
  }
  return "";
}

// The system message that a template puts first where the conversation has none: the text of a literal that holds all
// of it.
std::string DefaultSystem(const std::string& text) {
  for (const char quote : {'\'', '"'}) {
    const std::string opening = absl::StrCat(std::string(1, quote), "<|im_start|>system\n");
    for (size_t at = 0; (at = text.find(opening, at)) != std::string::npos;) {
      at += opening.size();
      const size_t end = text.find("<|im_end|>", at);
      if (end == std::string::npos) break;
      const std::string system = text.substr(at, end - at);
      // A quote or a brace means that it is put together at run time: no fixed text.
      if (system.find(quote) == std::string::npos && system.find('{') == std::string::npos) return system;
    }
  }
  return "";
}

bool Trims(absl::string_view text) {
  std::string packed = absl::StrReplaceAll(text, {{" ", ""}});
  for (const char* use :
       {"content|trim", "content']|trim", "content\"]|trim", "content.strip()", "content'].strip()"}) {
    if (absl::StrContains(packed, use)) return true;
  }
  return false;
}

absl::StatusOr<ChatStyle> RecogniseChatMl(const std::string& text) {
  const std::string token = UnexpectedToken(text, {"im_start", "im_end", "endoftext"});
  if (!token.empty()) return Unknown("it is like ChatML, but with " + token);
  for (const char* computed : {"strftime_now", "Today Date", "Knowledge Cutoff", "reasoning_effort"}) {
    if (absl::StrContains(text, computed)) return Unknown(absl::StrCat("it is like ChatML, but with ", computed));
  }
  ChatStyle style = ChatMl();
  style.bos = absl::StrContains(text, "bos_token");
  style.trim = Trims(text);
  style.default_system = DefaultSystem(text);
  style.drop_thoughts = absl::StrContains(text, "split('</think>')");
  // What follows the last mention of the prompt for an answer is how the answer begins.
  const size_t prompt = text.rfind("add_generation_prompt");
  const absl::string_view opening = prompt == std::string::npos ? "" : absl::string_view(text).substr(prompt);
  const bool opens = absl::StrContains(opening, "<think>\n'") || absl::StrContains(opening, "<think>\n\"");
  style.thinking_opening = style.no_thinking_opening = opens ? kThink : "";
  if (absl::StrContains(text, "enable_thinking")) {
    if (!absl::StrContains(opening, "enable_thinking is false") || !absl::StrContains(opening, kNoThoughts)) {
      return Unknown("it is like Qwen3's, but uses enable_thinking in another way");
    }
    style.no_thinking_opening = kNoThoughts;
  }
  return style;
}

absl::StatusOr<ChatStyle> RecogniseLlama3(const std::string& text) {
  const std::string token = UnexpectedToken(
      text, {"start_header_id", "end_header_id", "eot_id", "eom_id", "python_tag", "begin_of_text", "end_of_text"});
  if (!token.empty()) return Unknown("it is like Llama 3's, but with " + token);
  ChatStyle style = Llama3();
  style.bos = absl::StrContains(text, "bos_token") || absl::StrContains(text, "<|begin_of_text|>");
  style.trim = Trims(text);
  if (absl::StrContains(text, "Cutting Knowledge Date")) {
    if (!absl::StrContains(text, "Cutting Knowledge Date: December 2023\n") ||
        !absl::StrContains(text, "Today Date: ")) {
      return Unknown("it is like Llama 3's, but with another date");
    }
    style.system_preamble = kLlama31Preamble;
  }
  return style;
}

struct NamedStyle {
  const char* name;
  ChatStyle (*make)();
};

constexpr NamedStyle kStyles[] = {
    {"chatml", [] { return ChatMl(); }},
    {"llama3", [] { return Llama3(); }},
    {"llama3.1",
     [] {
       ChatStyle style = Llama3();
       style.system_preamble = kLlama31Preamble;
       return style;
     }},
    {"qwen2.5",
     [] {
       ChatStyle style = ChatMl();
       style.default_system = kQwen25System;
       return style;
     }},
    {"qwen3",
     [] {
       ChatStyle style = ChatMl();
       style.drop_thoughts = true;
       style.no_thinking_opening = kNoThoughts;
       return style;
     }},
};

}  // namespace

absl::StatusOr<ChatStyle> RecogniseChatStyle(const std::string& template_text) {
  // Jinja's strings may spell line ends out.
  const std::string text = absl::StrReplaceAll(template_text, {{"\\n", "\n"}});
  if (text.empty()) return Unknown("the file has none");
  if (absl::StrContains(text, "<|start_header_id|>") && absl::StrContains(text, "<|eot_id|>")) {
    return RecogniseLlama3(text);
  }
  if (absl::StrContains(text, "<|im_start|>") && absl::StrContains(text, "<|im_end|>")) return RecogniseChatMl(text);
  return Unknown("it is neither ChatML nor Llama 3's");
}

absl::StatusOr<ChatStyle> FindChatStyle(absl::string_view name) {
  for (const NamedStyle& style : kStyles) {
    if (name == style.name) return style.make();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("chat template '", name, "' is not known; these are: ", ChatStyleNames()));
}

std::string ChatStyleNames() {
  std::string names;
  for (const NamedStyle& style : kStyles) absl::StrAppend(&names, names.empty() ? "" : ", ", style.name);
  return names;
}

}  // namespace hga
