#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gpu_worker/model/tokenizer.h"
#include "gpu_worker/model/tokenizer_test_data.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// Descriptions that cannot work, each a small change of one that does, and what the message must say.
struct Bad {
  const char* what;
  std::function<void(TokenizerData*)> change;
  std::vector<const char*> message;
};

AddedToken Added(const std::string& text, uint32_t id) {
  AddedToken token;
  token.text = text;
  token.id = id;
  return token;
}

constexpr uint32_t kA = 2 + 'a';  // ids of the bytes begin at 2

TokenizerData Good() {
  TokenizerData data = ByteVocabulary({"<end>", "<turn>"});
  data.tokens.push_back("ab");
  data.merges.emplace_back("a", "b");
  return data;
}

void MakeUnigram(TokenizerData* d) {
  d->model = TokenizerData::Model::kUnigram;
  d->merges.clear();
  d->scores.assign(d->tokens.size(), -1);
}

const std::vector<Bad>& BadDescriptions() {
  using Data = TokenizerData;
  static const auto* const all = new std::vector<Bad>{
      {"part unknown", [](Data* d) { d->merges.emplace_back("b", "q"); }, {"merges: entry 1 ('b', 'q')", "does not"}},
      {"left unknown", [](Data* d) { d->merges.emplace_back("zz", "a"); }, {"entry 1", "does not have"}},
      {"cycle", [](Data* d) { d->merges.emplace_back("ab", ""); }, {"entry 1", "empty part"}},
      {"cycle on the left", [](Data* d) { d->merges.emplace_back("", "ab"); }, {"entry 1", "empty part"}},
      {"twice", [](Data* d) { d->merges.emplace_back("a", "b"); }, {"entry 1", "twice, first as entry 0"}},
      {"no byte", [](Data* d) { d->merges.emplace_back("a", "\u4e00"); }, {"entry 1", "stands for no byte"}},
      {"same token", [](Data* d) { d->tokens.push_back("ab"); }, {"ids 258 and 259 are the same token"}},
      {"no x", [](Data* d) { d->tokens[2 + 'x'] = "unused"; }, {"no token for byte 120"}},
      {"nothing", [](Data* d) { *d = Data(); }, {"0 ids"}},
      {"no bytes", [](Data* d) { d->tokens.clear(); }, {"no token for byte 32"}},
      {"end outside", [](Data* d) { d->ends.push_back(5000); }, {"end token 5000 is outside the vocabulary of 259"}},
      {"bos outside", [](Data* d) { d->bos = 5000; }, {"begin token 5000"}},
      {"unknown outside", [](Data* d) { d->unknown = 5000; }, {"unknown token 5000"}},
      {"no_match outside", [](Data* d) { d->no_match.push_back(5000); }, {"token 5000"}},
      {"added huge id", [](Data* d) { d->added.push_back(Added("x", 1u << 30)); }, {"1073741825 ids"}},
      {"added taken", [](Data* d) { d->added.push_back(Added("<x>", kA)); }, {"'<x>'", "id of the vocabulary's 'a'"}},
      {"added id twice",
       [](Data* d) { d->added = {Added("<x>", 300), Added("<y>", 300)}; },
       {"token 300 ('<y>')", "the id of '<x>'"}},
      {"added text twice",
       [](Data* d) { d->added = {Added("<x>", 300), Added("<x>", 301)}; },
       {"token 301 ('<x>')", "twice, also as 300"}},
      {"added empty", [](Data* d) { d->added.push_back(Added("", 300)); }, {"token 300", "0 bytes"}},
      {"added long", [](Data* d) { d->added.push_back(Added(std::string(2000, 'x'), 300)); }, {"2000 bytes"}},
      {"added broken", [](Data* d) { d->added.push_back(Added("\xff", 300)); }, {"token 300", "UTF-8"}},
      {"scores missing", [](Data* d) { MakeUnigram(d), d->scores.pop_back(); }, {"scores: 258 for 259 tokens"}},
      {"no scores", [](Data* d) { MakeUnigram(d), d->scores.clear(); }, {"scores: 0 for 259 tokens"}},
      {"NaN",
       [](Data* d) { MakeUnigram(d), d->scores[7] = std::numeric_limits<double>::quiet_NaN(); },
       {"token 7 is not a finite number"}},
      {"long piece", [](Data* d) { MakeUnigram(d), d->tokens[9] = std::string(5000, 'x'); }, {"token 9 has 5000"}},
      {"long scored",
       [](Data* d) { MakeUnigram(d), d->model = Data::Model::kBpe, d->tokens[9] = std::string(5000, 'x'); },
       {"token 9 has 5000"}},
      {"pattern", [](Data* d) { d->split[0].pattern = "(a"; }, {"'(a'", "parenthesis"}},
      {"pattern too long", [](Data* d) { d->split[0].pattern.assign(100000, 'a'); }, {"100000 bytes"}},
  };
  return *all;
}

TEST(TokenizerCreateTest, DescriptionsThatCannotWorkAreRefused) {
  ASSERT_TRUE(Tokenizer::Create(Good()).ok());
  for (const Bad& bad : BadDescriptions()) {
    TokenizerData data = Good();
    bad.change(&data);
    const auto tokenizer = Tokenizer::Create(std::move(data));
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << bad.what;
    for (const char* part : bad.message) {
      EXPECT_TRUE(absl::StrContains(tokenizer.status().message(), part)) << bad.what << ": " << tokenizer.status();
    }
  }
}

}  // namespace
}  // namespace hga
