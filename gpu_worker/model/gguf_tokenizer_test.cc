#include "gpu_worker/model/gguf_tokenizer.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gpu_worker/model/byte_alphabet.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using Ids = std::vector<uint32_t>;

template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string Text(const std::string& text) { return Raw(uint64_t{text.size()}) + text; }

// Values of metadata with their types in front.
std::string Id(uint32_t id) { return Raw(uint32_t{4}) + Raw(id); }
std::string Name(const std::string& text) { return Raw(uint32_t{8}) + Text(text); }
std::string Names(const std::vector<std::string>& texts) {
  std::string list = Raw(uint32_t{9}) + Raw(uint32_t{8}) + Raw(uint64_t{texts.size()});
  for (const std::string& text : texts) list += Text(text);
  return list;
}
std::string Types(const std::vector<int32_t>& types) {
  std::string list = Raw(uint32_t{9}) + Raw(uint32_t{5}) + Raw(uint64_t{types.size()});
  for (int32_t type : types) list += Raw(type);
  return list;
}
std::string Scores(const std::vector<float>& scores) {
  std::string list = Raw(uint32_t{9}) + Raw(uint32_t{6}) + Raw(uint64_t{scores.size()});
  for (float score : scores) list += Raw(score);
  return list;
}

using Metadata = std::map<std::string, std::string>;  // keys without their prefix

absl::StatusOr<std::unique_ptr<Tokenizer>> Read(const Metadata& metadata) {
  std::string file = "GGUF" + Raw(uint32_t{3}) + Raw(uint64_t{0}) + Raw(uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) file += Text("tokenizer.ggml." + key) + value;
  auto parsed = GgufFile::Parse("some.gguf", {reinterpret_cast<const uint8_t*>(file.data()), file.size()});
  if (!parsed.ok()) return parsed.status();
  return ReadGgufTokenizer(**parsed);
}

// Byte b is b; 256 <end>, 257 "ab", 258 "abc", 259 "123".
Metadata Bytes(const std::string& pre) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(ToByteAlphabet(static_cast<uint8_t>(byte)));
  std::vector<int32_t> types(256, 1);
  tokens.insert(tokens.end(), {"<end>", "ab", "abc", "123"});
  types.insert(types.end(), {3, 1, 1, 1});
  return {{"model", Name("gpt2")},     {"pre", Name(pre)},          {"tokens", Names(tokens)},
          {"token_type", Types(types)}, {"merges", Names({"a b"})}, {"eos_token_id", Id(256)}};
}

// <unk> <s> </s> <0x41> then U+2581, a, b, ab, U+2581 and a.
Metadata SentencePiece(const std::string& model) {
  return {{"model", Name(model)},
          {"tokens", Names({"<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "b", "ab", "\u2581" "a"})},
          {"token_type", Types({2, 3, 3, 6, 1, 1, 1, 1, 1})},
          {"scores", Scores({0, 0, 0, 0, -4, -5, -6, -1, -2})},
          {"unknown_token_id", Id(0)},
          {"bos_token_id", Id(1)},
          {"eos_token_id", Id(2)}};
}

TEST(GgufTokenizerTest, FamiliesBringTheirSettings) {
  const auto llama = Read(Bytes("llama-bpe")), qwen = Read(Bytes("qwen2")), smollm = Read(Bytes("smollm"));
  ASSERT_TRUE(llama.ok() && qwen.ok() && smollm.ok()) << llama.status() << qwen.status() << smollm.status();
  // Words that are tokens are taken whole whatever the merges say; digits go by threes.
  EXPECT_EQ(*(*llama)->Encode("abc1231", false), (Ids{258, 259, '1'}));
  EXPECT_EQ(*(*smollm)->Encode("abc1231", false), (Ids{257, 'c', '1', '2', '3', '1'}));
  EXPECT_EQ(*(*qwen)->Encode("e\u0301", false), *(*qwen)->Encode("\u00e9", false));
  EXPECT_NE(*(*llama)->Encode("e\u0301", false), *(*llama)->Encode("\u00e9", false));
}

TEST(GgufTokenizerTest, ScoresOrderTheMerges) {
  const auto tokenizer = Read(SentencePiece("llama"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("ab", false), (Ids{4, 7}));  // "ab" scores above U+2581 and "a"
  EXPECT_EQ(*(*tokenizer)->Encode("ac", false), (Ids{8, 0}));
  EXPECT_EQ(*(*tokenizer)->Encode("</s>A", true), (Ids{2, 4, 3}));  // the byte token, as no token is "A"
  EXPECT_TRUE((*tokenizer)->add_bos());
  EXPECT_EQ((*tokenizer)->TokenBytes(8), " a");
  EXPECT_EQ((*tokenizer)->TokenBytes(3), "A");
}

TEST(GgufTokenizerTest, UnigramTakesTheBestSum) {
  const auto tokenizer = Read(SentencePiece("t5"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("ab", false), (Ids{4, 7}));      // -5 against -8
  EXPECT_EQ(*(*tokenizer)->Encode("  a   ", false), (Ids{8}));     // white space is collapsed
  EXPECT_FALSE((*tokenizer)->add_bos());
}

TEST(GgufTokenizerTest, KeysThatCannotWorkAreNamed) {
  struct Bad {
    Metadata base;
    std::string key, value, message;  // value "": the key is missing
  };
  const float nan = std::nanf("");
  const Bad all[] = {
      {Bytes("qwen2"), "model", Name("bert"), "tokenizer.ggml.model is 'bert'; known are gpt2"},
      {Bytes("qwen2"), "model", "", "tokenizer.ggml.model"},
      {Bytes("qwen2"), "pre", Name("dbrx"), "tokenizer.ggml.pre is 'dbrx'; known pre-tokenizers are smollm"},
      {Bytes("qwen2"), "tokens", "", "tokenizer.ggml.tokens"},
      {Bytes("qwen2"), "tokens", Names({"a", "b"}), "token_type has 260 entries for 2 tokens"},
      {Bytes("qwen2"), "token_type", Types({1}), "token_type has 1 entries for 260 tokens"},
      {Bytes("qwen2"), "eos_token_id", "", "tokenizer.ggml.eos_token_id is missing"},
      {Bytes("qwen2"), "eos_token_id", Id(260), "eos_token_id is 260, outside the vocabulary of 260 tokens"},
      {Bytes("qwen2"), "bos_token_id", Id(5000), "bos_token_id is 5000"},
      {Bytes("qwen2"), "merges", "", "tokenizer.ggml.merges"},
      {Bytes("qwen2"), "merges", Names({"ab"}), "merges entry 0 is 'ab'"},
      {Bytes("qwen2"), "merges", Names({"ab "}), "merges: entry 0 ('ab', '') has an empty part"},
      {Bytes("qwen2"), "merges", Names({"a b", "a b"}), "merges: entry 1 ('a', 'b') stands there twice"},
      {Bytes("qwen2"), "merges", Names({"b b"}), "does not have"},
      {SentencePiece("llama"), "scores", "", "tokenizer.ggml.scores"},
      {SentencePiece("llama"), "scores", Scores({1, 2}), "scores: 2 for 9 tokens"},
      {SentencePiece("t5"), "scores", Scores({0, 0, 0, 0, 0, 0, nan, 0, 0}), "token 6 is not a finite number"},
      {SentencePiece("t5"), "precompiled_charsmap", Types({1}), "precompiled_charsmap is not supported"},
  };
  for (const Bad& bad : all) {
    Metadata metadata = bad.base;
    metadata.erase(bad.key);
    if (!bad.value.empty()) metadata[bad.key] = bad.value;
    const auto tokenizer = Read(metadata);
    ASSERT_FALSE(tokenizer.ok()) << bad.message;
    EXPECT_TRUE(absl::StrContains(tokenizer.status().message(), "some.gguf")) << tokenizer.status();
    EXPECT_TRUE(absl::StrContains(tokenizer.status().message(), bad.message)) << bad.message << tokenizer.status();
  }
}

}  // namespace
}  // namespace hga
