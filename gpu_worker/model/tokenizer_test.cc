#include "gpu_worker/model/tokenizer.h"

#include <chrono>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/model/test_model_dir.h"
#include "gpu_worker/model/tokenizer_test_data.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

using Ids = std::vector<uint32_t>;

// Control tokens 0 <end> and 1 <turn>, 2 <tool>, which is not one; byte b is 3 + b; then the merges' results in order.
TokenizerData SmallData() {
  TokenizerData data = ByteVocabulary({"<end>", "<turn>", "<tool>"});
  data.added[2].control = false;
  for (const auto& merge : std::vector<std::pair<std::string, std::string>>{
           {"b", "c"}, {"a", "b"}, {"ab", "c"}, {"l", "o"}}) {
    data.merges.push_back(merge);
    data.tokens.push_back(merge.first + merge.second);
  }
  return data;
}
uint32_t Byte(uint8_t byte) { return 3 + byte; }
constexpr uint32_t kBc = 259, kAb = 260, kLo = 262;

std::unique_ptr<Tokenizer> Small() {
  auto tokenizer = Tokenizer::Create(SmallData());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return std::move(tokenizer).value();
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
  const auto plain = *tokenizer->Encode("<turn><tool>", false);
  ASSERT_EQ(plain.size(), 7u);
  EXPECT_EQ(plain[0], Byte('<'));
  EXPECT_EQ(plain[6], 2u);  // not a control token: always found
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

TEST(TokenizerTest, BytesOfAnUnknownIdAreEmpty) { EXPECT_EQ(Small()->TokenBytes(1 << 30), ""); }

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
