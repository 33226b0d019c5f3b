// Tokenizers of every kind against what PyPI's tokenizers and sentencepiece make of 20400 lines (make_tokenizers.py).
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/model/gguf_tokenizer.h"
#include "gpu_worker/model/test_model_dir.h"
#include "gpu_worker/model/tokenizer_json.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/golden/tokenizer_lines.h"

namespace hga {
namespace {

using Ids = std::vector<uint32_t>;

constexpr size_t kBlock = 100;
const char* const kFolder = "tests/golden/tokenizers/";

uint64_t Mix(uint64_t hash, uint64_t number) { return (hash ^ number) * 0x100000001b3; }

std::string Hex(uint64_t number) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(number));
  return text;
}

// Rows is any container of containers of numbers.
template <typename Rows>
std::vector<std::string> BlockHashes(const Rows& rows) {
  std::vector<std::string> hashes;
  for (size_t begin = 0; begin < rows.size(); begin += kBlock) {
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = begin; i < std::min(begin + kBlock, rows.size()); ++i) {
      for (const auto number : rows[i]) hash = Mix(hash, static_cast<std::make_unsigned_t<decltype(+number)>>(number));
      hash = Mix(hash, 0xffffffff);
    }
    hashes.push_back(Hex(hash));
  }
  return hashes;
}

const std::vector<std::string>& Lines() {
  static const auto* const lines = new std::vector<std::string>(TokenizerLines(std::string(kFolder) + "pools.json"));
  return *lines;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const std::string& path) {
  auto file = GgufFile::Open(path);
  if (!file.ok()) return file.status();
  return ReadGgufTokenizer(**file);
}

std::string Decode(const Tokenizer& tokenizer, const Ids& ids) {
  StreamDecoder decoder(&tokenizer);
  std::string text;
  for (uint32_t id : ids) {
    const std::string part = decoder.Add(id);
    EXPECT_EQ(ValidUtf8Prefix(part), part.size()) << "half a character";
    text += part;
  }
  return text + decoder.Finish();
}

// How many blocks differ, with the first of them.
void ExpectSame(const std::vector<std::string>& hashes, const nlohmann::json& expected, const std::string& what) {
  ASSERT_EQ(hashes.size(), expected.size()) << what;
  size_t wrong = 0, first = 0;
  for (size_t i = 0; i < hashes.size(); ++i) {
    if (hashes[i] != expected[i] && wrong++ == 0) first = i;
  }
  EXPECT_EQ(wrong, 0u) << what << ": of " << hashes.size() << " blocks of 100 lines; the first is " << first;
}

class TokenizerParityTest : public ::testing::TestWithParam<std::string> {
 protected:
  void Compare(const Tokenizer& tokenizer) {
    std::ifstream stream(kFolder + GetParam() + "/golden.json");
    const auto golden = nlohmann::json::parse(stream);
    ASSERT_GE(Lines().size(), 20000u);
    std::vector<Ids> special, plain;
    std::vector<std::string> decoded;
    for (const std::string& line : Lines()) {
      special.push_back(tokenizer.Encode(line, true).value());
      plain.push_back(tokenizer.Encode(line, false).value());
      decoded.push_back(Decode(tokenizer, plain.back()));
    }
    ASSERT_GE(golden["ids"].size(), 200u);
    for (size_t i = 0; i < golden["ids"].size(); ++i) {
      EXPECT_EQ(special[i], golden["ids"][i].get<Ids>()) << "line " << i << ": " << Lines()[i];
    }
    ExpectSame(BlockHashes(special), golden["special"], "ids with control tokens");
    ExpectSame(BlockHashes(plain), golden["plain"], "ids of plain text");
    std::vector<std::vector<uint8_t>> bytes;
    for (const std::string& text : decoded) bytes.emplace_back(text.begin(), text.end());
    ExpectSame(BlockHashes(bytes), golden["decoded"], "decoded text");
  }
};

TEST_P(TokenizerParityTest, IdsAndTextEqualTheReference) {
  const std::string folder = kFolder + GetParam();
  const bool gguf = GetParam().compare(0, 4, "gguf") == 0;
  auto tokenizer = gguf ? FromGguf(folder + "/tokenizer.gguf") : ReadTokenizerJson(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  Compare(**tokenizer);
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerParityTest,
                         ::testing::Values("gpt2", "smollm", "llama3", "qwen2", "llama2", "metaspace", "unigram",
                                           "gguf_llama", "gguf_t5"),
                         [](const auto& info) { return info.param; });

class RealTokenizerParityTest : public TokenizerParityTest {};

TEST_P(RealTokenizerParityTest, IdsAndTextEqualTheReference) {
  if (RealModelPath().empty()) GTEST_SKIP() << kNoRealModel;
  auto tokenizer = FromGguf(RealModelPath());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  Compare(**tokenizer);
}

INSTANTIATE_TEST_SUITE_P(SmolLm2, RealTokenizerParityTest, ::testing::Values("smollm2"));

}  // namespace
}  // namespace hga
