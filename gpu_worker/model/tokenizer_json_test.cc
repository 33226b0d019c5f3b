#include "gpu_worker/model/tokenizer_json.h"

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// Byte-level BPE of the printable ASCII characters: '!' is 0, then in their order; "ab" is 95, <s> 96, <x> 97.
json Good() {
  json root = json::parse(R"({
    "added_tokens": [{"id": 96, "content": "<s>", "special": true, "normalized": false},
                     {"id": 97, "content": "<x>", "special": false, "normalized": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing",
                       "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                       "special_tokens": {"<s>": {"id": "<s>", "ids": [96]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"Ġ": 94, "ab": 95}, "merges": [["a", "b"]]}})");
  for (int c = '!'; c <= '~'; ++c) root["model"]["vocab"][std::string(1, static_cast<char>(c))] = c - '!';
  return root;
}

class TokenizerJsonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = ::testing::TempDir() + "/hga.XXXXXX";
    folder_ = ::mkdtemp(folder.data());
    Write("tokenizer.json", Good().dump());
    Write("tokenizer_config.json", R"({"eos_token": "<x>"})");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) { std::ofstream(folder_ + "/" + name) << text; }
  void ExpectRefused(const std::vector<std::string>& parts,
                     absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const auto tokenizer = ReadTokenizerJson(folder_);
    EXPECT_EQ(tokenizer.status().code(), code) << tokenizer.status();
    for (const std::string& part : parts) {
      EXPECT_TRUE(absl::StrContains(tokenizer.status().message(), part)) << part << " in " << tokenizer.status();
    }
  }

  std::string folder_;
};

TEST_F(TokenizerJsonTest, BeginAndEndTokensAndTemplate) {
  auto tokenizer = ReadTokenizerJson(folder_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 98u);
  EXPECT_EQ((*tokenizer)->ends(), std::vector<uint32_t>{97});
  EXPECT_EQ((*tokenizer)->bos(), 96u);
  EXPECT_TRUE((*tokenizer)->add_bos());
  EXPECT_EQ((*tokenizer)->chat_template(), "");
  Write("generation_config.json", R"({"eos_token_id": [96, 97]})");
  Write("tokenizer_config.json", R"({"eos_token": {"content": "<x>"}, "bos_token": "<x>", "add_bos_token": false,
        "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}],
        "added_tokens_decoder": {"98": {"content": "<late>", "special": true}}})");
  tokenizer = ReadTokenizerJson(folder_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->ends(), (std::vector<uint32_t>{96, 97}));
  EXPECT_EQ((*tokenizer)->bos(), 97u);
  EXPECT_FALSE((*tokenizer)->add_bos());
  EXPECT_EQ((*tokenizer)->chat_template(), "yes");
  EXPECT_EQ(*(*tokenizer)->Encode("<late>", true), std::vector<uint32_t>{98});
  Write("chat_template.jinja", "from a file");
  EXPECT_EQ((*ReadTokenizerJson(folder_))->chat_template(), "from a file");
}

TEST_F(TokenizerJsonTest, FoldersThatCannotWorkAreRefused) {
  Write("tokenizer_config.json", "{}");
  ExpectRefused({"tokenizer_config.json", "'eos_token' is missing"});
  Write("tokenizer_config.json", R"({"eos_token": "<none>"})");
  ExpectRefused({"tokenizer_config.json", "'eos_token' is \"<none>\"", "tokenizer.json has"});
  Write("tokenizer_config.json", R"({"eos_token": 7})");
  ExpectRefused({"tokenizer_config.json", "'eos_token' is 7"});
  Write("tokenizer_config.json", R"({"eos_token": "<x>", "chat_template": 1})");
  ExpectRefused({"tokenizer_config.json", "'chat_template' is 1"});
  Write("tokenizer_config.json", R"({"eos_token": "<x>", "added_tokens_decoder": {"x": {}}})");
  ExpectRefused({"added_tokens_decoder.x"});
  Write("tokenizer_config.json", R"({"eos_token": "<x>"})");
  Write("generation_config.json", R"({"eos_token_id": [-1]})");
  ExpectRefused({"generation_config.json", "'eos_token_id' is [-1]"});
  Write("generation_config.json", R"({"eos_token_id": 5000})");
  ExpectRefused({"end token 5000 is outside the vocabulary of 98"});
  fs::remove(folder_ + "/generation_config.json");
  fs::remove(folder_ + "/tokenizer.json");
  ExpectRefused({"tokenizer.json"}, absl::StatusCode::kNotFound);
  fs::create_directory(folder_ + "/tokenizer.json");
  ExpectRefused({"tokenizer.json"});
}

// Bounded before a tree is built: a hundred megabytes of small values would take gigabytes.
TEST_F(TokenizerJsonTest, HugeFilesAreRefusedAtOnce) {
  { std::ofstream(folder_ + "/tokenizer.json") << "{"; }
  fs::resize_file(folder_ + "/tokenizer.json", size_t{100} << 20);  // a hole
  ExpectRefused({"tokenizer.json has 104857600 bytes, expected at most"});
  std::string text = "{\"model\":[";
  for (int i = 0; i < 9 << 20; ++i) text += "0,";
  Write("tokenizer.json", text + "0]}");
  ExpectRefused({"tokenizer.json has about 94371", "values, expected at most"});
}

// Each a change of one field, and what the message must say.
struct Bad {
  std::function<void(json*)> change;
  std::vector<std::string> message;
};

const std::vector<Bad>& BadFiles() {
  static const auto* const all = new std::vector<Bad>{
      {[](json* j) { *j = json::array(); }, {"expected a JSON object"}},
      {[](json* j) { j->erase("model"); }, {"'model' is missing"}},
      {[](json* j) { (*j)["model"]["type"] = "WordPiece"; }, {"'model.type' is \"WordPiece\"", "BPE or Unigram"}},
      {[](json* j) { (*j)["model"]["type"] = "Unigram"; }, {"after ByteLevel"}},
      {[](json* j) { (*j)["model"]["dropout"] = 0.1; }, {"'model.dropout'"}},
      {[](json* j) { (*j)["model"]["end_of_word_suffix"] = "</w>"; }, {"'model.end_of_word_suffix' is \"</w>\""}},
      {[](json* j) { (*j)["model"]["unk_token"] = "<unk>"; }, {"'model.unk_token' is \"<unk>\""}},
      {[](json* j) { (*j)["model"]["vocab"] = json::array(); }, {"'model.vocab' is []"}},
      {[](json* j) { (*j)["model"]["vocab"]["q"] = 95; }, {"'model.vocab': token 'q' has the id 95, as 'ab' has"}},
      {[](json* j) { (*j)["model"]["vocab"]["q"] = -1; }, {"token 'q' has the id -1"}},
      {[](json* j) { (*j)["model"]["vocab"]["q"] = 1 << 30; }, {"token 'q' has the id 1073741824"}},
      {[](json* j) { (*j)["model"]["vocab"]["q"] = "3"; }, {"token 'q' has the id \"3\""}},
      {[](json* j) { (*j)["model"]["vocab"].erase("x"); }, {"no token for byte 120"}},
      {[](json* j) { (*j)["model"]["merges"].push_back({"ab", ""}); }, {"merges: entry 1", "empty part"}},
      {[](json* j) { (*j)["model"]["merges"].push_back("a b"); }, {"merges: entry 1", "twice"}},
      {[](json* j) { (*j)["model"]["merges"].push_back("b a"); }, {"merges: entry 1", "does not have"}},
      {[](json* j) { (*j)["model"]["merges"].push_back("ab"); }, {"'model.merges': entry 1"}},
      {[](json* j) { (*j)["model"]["merges"].push_back({1, 2}); }, {"'model.merges': entry 1"}},
      {[](json* j) { (*j)["model"].erase("merges"); }, {"'model.merges' is missing"}},
      {[](json* j) { (*j)["added_tokens"][0]["id"] = 1; }, {"token 1 ('<s>')", "the vocabulary's '\"'"}},
      {[](json* j) { (*j)["added_tokens"][1]["id"] = 96; }, {"token 96 ('<x>') has the id of '<s>'"}},
      {[](json* j) { (*j)["added_tokens"].push_back({{"id", 98}, {"content", "<s>"}}); },
       {"added tokens: token 98 ('<s>') stands there twice, also as 96"}},
      {[](json* j) { (*j)["added_tokens"][1]["single_word"] = true; }, {"'added_tokens[1].single_word' is true"}},
      {[](json* j) { (*j)["added_tokens"][1].erase("id"); }, {"'added_tokens[1].id' is missing"}},
      {[](json* j) { (*j)["added_tokens"][0] = 3; }, {"'added_tokens[0]' is no object"}},
      {[](json* j) { (*j)["normalizer"] = {{"type", "Lowercase"}}; }, {"'normalizer.type' is \"Lowercase\"", "NFC"}},
      {[](json* j) { (*j)["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}}; },
       {"'normalizer.pattern'", "String"}},
      {[](json* j) { (*j)["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", ""}}}}; }, {"not empty"}},
      {[](json* j) { (*j)["pre_tokenizer"] = {{"type", "Punctuation"}}; },
       {"'pre_tokenizer.type' is \"Punctuation\"", "ByteLevel, Split, Digits, Metaspace"}},
      {[](json* j) {
         (*j)["pre_tokenizer"] = {{"type", "Sequence"},
                                  {"pretokenizers", {(*j)["pre_tokenizer"], {{"type", "Digits"}}}}};
       },
       {"'pre_tokenizer.pretokenizers[1].type'", "nothing after ByteLevel"}},
      {[](json* j) { (*j)["pre_tokenizer"] = {{"type", "Sequence"}}; }, {"'pre_tokenizer.pretokenizers' is missing"}},
      {[](json* j) { (*j)["pre_tokenizer"] = nullptr; }, {"'decoder.type' is \"ByteLevel\"", "no ByteLevel"}},
      {[](json* j) { (*j)["decoder"] = nullptr; }, {"'decoder' is missing"}},
      {[](json* j) { (*j)["decoder"] = {{"type", "WordPiece"}}; }, {"'decoder.type' is \"WordPiece\""}},
      {[](json* j) { (*j)["post_processor"] = {{"type", "BertProcessing"}}; }, {"'post_processor.type'"}},
      {[](json* j) { (*j)["post_processor"]["special_tokens"] = json::object(); }, {"'post_processor.single'"}},
      {[](json* j) { (*j)["post_processor"]["special_tokens"]["<s>"]["ids"][0] = 500; }, {"begin token 500"}},
  };
  return *all;
}

TEST_F(TokenizerJsonTest, FieldsThatCannotWorkAreNamed) {
  for (const Bad& bad : BadFiles()) {
    json root = Good();
    bad.change(&root);
    Write("tokenizer.json", root.dump());
    std::vector<std::string> parts = bad.message;
    parts.push_back("tokenizer.json");
    ExpectRefused(parts);
  }
}

TEST_F(TokenizerJsonTest, PatternsThatCannotWorkAreNamed) {
  for (const auto& [pattern, message] : std::vector<std::pair<std::string, std::string>>{
           {"(a", "missing closing parenthesis"}, {"[^\\S]", "inside [] is not supported"}, {"\\C", "\\C"}}) {
    json root = Good();
    root["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers",
                              {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}},
                               root["pre_tokenizer"]}}};
    Write("tokenizer.json", root.dump());
    ExpectRefused({"tokenizer.json", message});
  }
}

TEST_F(TokenizerJsonTest, BrokenAndDeepJsonIsRefused) {
  const std::string good = Good().dump();
  for (size_t length : {size_t{0}, size_t{1}, good.size() / 2, good.size() - 1}) {
    Write("tokenizer.json", good.substr(0, length));
    ExpectRefused({"tokenizer.json"});
  }
  Write("tokenizer.json", "{\"normalizer\":" + std::string(1000000, '[') + std::string(1000000, ']') + "}");
  ExpectRefused({"tokenizer.json", "nested"});
}

}  // namespace
}  // namespace hga
