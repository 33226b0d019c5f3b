// Texts that a careless tokenizer takes minutes for.
#include <chrono>
#include <string>

#include "gpu_worker/model/tokenizer_json.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr size_t kBytes = 256 << 10;

std::string Repeat(const std::string& text) {
  std::string all;
  while (all.size() < kBytes) all += text;
  return all;
}

class TokenizerSpeedTest : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerSpeedTest, TimeGrowsWithTheTextWhateverItIs) {
  const auto tokenizer = ReadTokenizerJson(std::string("tests/golden/tokenizers/") + GetParam());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string texts[] = {
      Repeat("a"), Repeat("7"), Repeat("的"), Repeat(" a"), Repeat("\t "), "q" + Repeat("\u0323\u0301"),
      Repeat(" ") + "x", Repeat("<|im_"), Repeat("<extra>"), Repeat("\x01"), Repeat("\r\n ")};
  for (const std::string& text : texts) {
    const auto begin = std::chrono::steady_clock::now();
    const auto ids = (*tokenizer)->Encode(text, true);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    ASSERT_TRUE(ids.ok()) << ids.status();
    // About 0.05 s; what is quadratic in a word's length takes minutes.
    EXPECT_LT(took.count(), 5.0) << text.substr(0, 12);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerSpeedTest,
                         ::testing::Values("smollm", "llama3", "qwen2", "llama2", "unigram"));

}  // namespace
}  // namespace hga
