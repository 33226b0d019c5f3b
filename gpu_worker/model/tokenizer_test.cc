#include "gpu_worker/model/tokenizer.h"

#include <chrono>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "gpu_worker/model/byte_alphabet.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/model/test_model_dir.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

using Ids = std::vector<uint32_t>;

// Control tokens 0 <end> and 1 <turn>, user-defined 2 <tool>; byte b is 3 + b; then the merges' results in order.
TokenizerData SmallData() {
  TokenizerData data;
  data.pre = "gpt-2";
  data.tokens = {"<end>", "<turn>", "<tool>"};
  data.types = {3, 3, 4};
  for (int byte = 0; byte < 256; ++byte) data.tokens.push_back(ToByteAlphabet(static_cast<uint8_t>(byte)));
  for (const char* merge : {"b c", "a b", "ab c", "l o"}) {
    std::string text = merge;
    data.merges.push_back(text);
    data.tokens.push_back(text.erase(text.find(' '), 1));
  }
  data.types.resize(data.tokens.size(), 1);
  return data;
}
uint32_t Byte(uint8_t byte) { return 3 + byte; }
constexpr uint32_t kBc = 259, kAb = 260, kLo = 262;

std::unique_ptr<Tokenizer> Small() {
  auto tokenizer = Tokenizer::Create(SmallData());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return std::move(tokenizer).value();
}

std::string CreateError(const TokenizerData& data) {
  const auto tokenizer = Tokenizer::Create(data);
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(tokenizer.status().message());
}

TEST(TokenizerTest, MergesByRankThenFromTheLeft) {
  const auto tokenizer = Small();
  EXPECT_EQ(*tokenizer->Encode("abc", false), (Ids{Byte('a'), kBc}));  // "b c" ranks before "a b"
  EXPECT_EQ(*tokenizer->Encode("abab", false), (Ids{kAb, kAb}));
  EXPECT_EQ(*tokenizer->Encode("aloo", false), (Ids{Byte('a'), kLo, Byte('o')}));
  EXPECT_EQ(*tokenizer->Encode("a b", false), (Ids{Byte('a'), Byte(' '), Byte('b')}));  // words do not merge
  EXPECT_EQ(*tokenizer->Encode("", false), Ids{});
}

TEST(TokenizerTest, SpecialTokensOnlyWhereAskedFor) {
  const auto tokenizer = Small();
  EXPECT_EQ(*tokenizer->Encode("ab<turn>ab<tool>", true), (Ids{kAb, 1, kAb, 2}));
  const auto plain = *tokenizer->Encode("<turn>", false);
  EXPECT_EQ(plain.size(), 6u);
  EXPECT_EQ(plain[0], Byte('<'));
  EXPECT_TRUE(tokenizer->IsControl(1));
  EXPECT_FALSE(tokenizer->IsControl(2));
  EXPECT_FALSE(tokenizer->IsControl(1 << 30));
}

TEST(TokenizerTest, InvalidUtf8NamesTheByte) {
  const auto tokenizer = Small();
  const auto result = tokenizer->Encode("abc\xc3(", true);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(result.status().message(), "byte 3")) << result.status();
}

TEST(TokenizerTest, BytesOutsideTheVocabularyAreLeftOut) {
  TokenizerData data = SmallData();
  data.tokens[Byte(4)] = "unused";
  const auto tokenizer = Tokenizer::Create(data);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("\x03\x04\x05", false), (Ids{Byte(3), Byte(5)}));
  EXPECT_EQ(*(*tokenizer)->Encode("\x04", false), Ids{});
}

TEST(TokenizerTest, VocabulariesThatCannotWorkAreRefused) {
  TokenizerData data = SmallData();
  data.pre = "qwen2";
  EXPECT_TRUE(absl::StrContains(CreateError(data), "'qwen2' is not supported; smollm"));
  data = SmallData();
  data.tokens[Byte('x')] = "unused";
  EXPECT_TRUE(absl::StrContains(CreateError(data), "no token for byte 120"));
  data = SmallData();
  data.types.pop_back();
  EXPECT_TRUE(absl::StrContains(CreateError(data), "token types"));
  data = SmallData();
  data.eos = 5000;
  EXPECT_TRUE(absl::StrContains(CreateError(data), "5000"));
  for (const char* merge : {"a q", "ab", "", " ", "nothing b"}) {
    data = SmallData();
    data.merges.push_back(merge);
    EXPECT_TRUE(absl::StrContains(CreateError(data), "merge 4")) << merge;
  }
  EXPECT_TRUE(absl::StrContains(CreateError(TokenizerData{"default", {}, {}, {}, 0}), "no token for byte"));
}

TEST(StreamDecoderTest, NeverGivesHalfACharacter) {
  const auto tokenizer = Small();
  StreamDecoder decoder(tokenizer.get());
  EXPECT_EQ(decoder.Add(Byte('x')), "x");
  for (uint8_t byte : {0xf0, 0x9f, 0x98}) EXPECT_EQ(decoder.Add(Byte(byte)), "");
  EXPECT_EQ(decoder.Add(1), "");  // control tokens add nothing
  EXPECT_EQ(decoder.Add(Byte(0x80)), "😀");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamDecoderTest, BrokenBytesBecomeReplacementCharacters) {
  const auto tokenizer = Small();
  StreamDecoder decoder(tokenizer.get());
  EXPECT_EQ(decoder.Add(Byte(0xff)), "\ufffd");
  EXPECT_EQ(decoder.Add(Byte(0xe4)), "");
  EXPECT_EQ(decoder.Add(Byte('a')), "\ufffd" "a");
  EXPECT_EQ(decoder.Add(Byte(0xe4)), "");
  EXPECT_EQ(decoder.Finish(), "\ufffd");
  EXPECT_EQ(decoder.Finish(), "");
}

class RealTokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (RealModelPath().empty()) GTEST_SKIP() << kNoRealModel;
    auto model = LoadModel(RealModelPath());
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = std::move(model).value();
    std::ifstream stream("tests/golden/tokenizer_smollm2.json");
    golden_ = nlohmann::json::parse(stream);
  }
  void ExpectGolden(const char* name, bool parse_special) {
    ASSERT_GT(golden_[name].size(), 20u);
    for (const auto& line : golden_[name]) {
      const auto ids = model_->tokenizer->Encode(line["text"].get<std::string>(), parse_special);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, line["ids"].get<Ids>()) << line["text"];
    }
  }

  std::unique_ptr<LoadedModel> model_;
  nlohmann::json golden_;
};

TEST_F(RealTokenizerTest, PlainTextMatchesTheOriginalTokenizer) { ExpectGolden("plain", false); }
TEST_F(RealTokenizerTest, SpecialTokensMatchTheOriginalTokenizer) { ExpectGolden("special", true); }

TEST_F(RealTokenizerTest, ChatsMatchTheFilesOwnTemplate) {
  ASSERT_TRUE(model_->chat_template.ok()) << model_->chat_template.status();
  ASSERT_GT(golden_["chats"].size(), 2u);
  for (const auto& chat : golden_["chats"]) {
    std::vector<ChatMessage> messages;
    for (const auto& m : chat["messages"]) messages.push_back({m["role"], m["content"]});
    const auto ids = model_->chat_template->RenderChat(messages);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, chat["ids"].get<Ids>()) << chat["messages"];
  }
}

TEST_F(RealTokenizerTest, DecodingGivesTheTextBack) {
  for (const auto& line : golden_["plain"]) {
    const std::string text = line["text"];
    std::string expected;  // the vocabulary has no tokens for some bytes: whole texts only where it has all
    for (uint32_t id : line["ids"].get<Ids>()) expected += model_->tokenizer->TokenBytes(id);
    if (expected != text) continue;
    StreamDecoder decoder(model_->tokenizer.get());
    std::string decoded;
    for (uint32_t id : line["ids"].get<Ids>()) decoded += decoder.Add(id);
    EXPECT_EQ(decoded + decoder.Finish(), text);
  }
}

TEST_F(RealTokenizerTest, LongTextsTakeLittleTime) {
  std::string text, word(100000, 'a');
  while (text.size() < 100000) text += golden_["plain"][text.size() % 20]["text"].get<std::string>() + "\n";
  for (const std::string& input : {text, word, std::string(100000, ' ') + "x", std::string(100000, '7')}) {
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_TRUE(model_->tokenizer->Encode(input, true).ok());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    RecordProperty("seconds", std::to_string(took.count()));
    // About 30 ms; a merge loop that is quadratic in a word's length takes minutes.
    EXPECT_LT(took.count(), 2.0);
  }
}

}  // namespace
}  // namespace hga
