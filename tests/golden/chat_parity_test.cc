// Conversations of every built-in style against transformers' apply_chat_template (make_chats.py).
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gpu_worker/model/chat_template.h"
#include "gpu_worker/model/tokenizer_json.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

std::unique_ptr<Tokenizer> Read(const std::string& name) {
  auto tokenizer = ReadTokenizerJson("tests/golden/tokenizers/" + name);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return std::move(tokenizer).value();
}

nlohmann::json Golden() {
  std::ifstream stream("tests/golden/chats.json");
  return nlohmann::json::parse(stream);
}

void ExpectSame(const ChatTemplate& chat, const Tokenizer& tokenizer, const nlohmann::json& expected) {
  std::vector<ChatMessage> messages;
  for (const auto& m : expected["messages"]) messages.push_back({m["role"], m["content"]});
  ChatOptions options;
  options.thinking = expected["thinking"];
  const auto ids = chat.RenderChat(messages, options);
  ASSERT_TRUE(ids.ok()) << ids.status();
  const std::string text = expected["text"];
  std::string rendered;
  for (uint32_t id : *ids) rendered += tokenizer.TokenBytes(id);
  EXPECT_EQ(rendered, text);
  EXPECT_EQ(*ids, tokenizer.Encode(text, /*parse_special=*/true).value()) << text;
}

TEST(ChatParityTest, RecognisedTemplatesRenderAsTheReferenceDoes) {
  const auto qwen = Read("qwen2"), llama = Read("llama3");
  size_t cases = 0;
  for (const auto& style : Golden()) {
    SCOPED_TRACE(style["name"].get<std::string>());
    const Tokenizer& tokenizer = absl::StrContains(style["name"].get<std::string>(), "llama") ? *llama : *qwen;
    const auto chat = ChatTemplate::Create(style["template"].get<std::string>(), &tokenizer);
    ASSERT_TRUE(chat.ok()) << chat.status();
    for (const auto& expected : style["cases"]) ExpectSame(*chat, tokenizer, expected);
    cases += style["cases"].size();
  }
  EXPECT_GE(cases, 140u);
}

// What --chat_template names is the same as what is recognised.
TEST(ChatParityTest, NamedStylesRenderAsTheReferenceDoes) {
  const auto qwen = Read("qwen2"), llama = Read("llama3");
  size_t found = 0;
  for (const auto& golden : Golden()) {
    const std::string name = golden["name"];
    SCOPED_TRACE(name);
    auto style = FindChatStyle(name);
    if (!style.ok()) continue;
    ++found;
    const Tokenizer& tokenizer = absl::StrContains(name, "llama") ? *llama : *qwen;
    const auto chat = ChatTemplate::Create(*std::move(style), &tokenizer);
    ASSERT_TRUE(chat.ok()) << chat.status();
    for (const auto& expected : golden["cases"]) ExpectSame(*chat, tokenizer, expected);
  }
  EXPECT_EQ(found, 5u);
}

TEST(ChatParityTest, TurnsContinueWhatWasRendered) {
  const auto tokenizer = Read("llama3");
  const auto chat = ChatTemplate::Create(*FindChatStyle("llama3"), tokenizer.get());
  ASSERT_TRUE(chat.ok()) << chat.status();
  const std::vector<ChatMessage> first = {{"user", "Hi"}}, second = {{"user", "why?"}};
  const std::vector<ChatMessage> all = {{"user", "Hi"}, {"assistant", "no"}, {"user", "why?"}};
  auto ids = chat->RenderChat(first).value();
  const auto answer = tokenizer->Encode("no", false).value();
  ids.insert(ids.end(), answer.begin(), answer.end());
  const auto turn = chat->RenderTurn(second, ids.back()).value();
  ids.insert(ids.end(), turn.begin(), turn.end());
  EXPECT_EQ(ids, chat->RenderChat(all).value());
}

}  // namespace
}  // namespace hga
