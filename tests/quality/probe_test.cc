// Attention mass and retrieval on a small random model.
#include <random>

#include "gtest/gtest.h"
#include "tests/quality/mass.h"
#include "tests/quality/retrieval.h"
#include "tests/quality/small_model_test.h"

namespace hga {
namespace {

class ProbeTest : public SmallModelTest {
 protected:
  std::vector<MassResult> Mass(std::vector<std::string> methods, std::vector<double> percents) {
    std::mt19937 random(7);
    std::vector<uint32_t> tokens(512);
    for (uint32_t& token : tokens) token = random() % 260;
    MassOptions options;
    options.methods = std::move(methods);
    options.percents = std::move(percents);
    options.first = 256;
    options.stride = 64;
    auto results = MeasureMass(backend_.get(), geometry_, tokens, options, [](uint32_t) {});
    EXPECT_TRUE(results.ok()) << results.status();
    return results.ok() ? *results : std::vector<MassResult>();
  }
};

double Mean(const std::vector<std::vector<double>>& table) {
  double sum = 0, count = 0;
  for (const auto& row : table) {
    for (const double x : row) {
      sum += x;
      ++count;
    }
  }
  return sum / count;
}

TEST_F(ProbeTest, AllKeysKeepAllMass) {
  for (const MassResult& r : Mass({"window", "sketch", "mean_hga", "oracle_groups", "oracle_tokens"}, {100})) {
    ASSERT_EQ(r.kept.size(), geometry_.layers);
    for (const auto& layer : r.kept) {
      ASSERT_EQ(layer.size(), geometry_.query_heads);
      for (const double kept : layer) EXPECT_NEAR(kept, 1, 1e-4) << r.method;
    }
    for (const auto& layer : r.error) {
      for (const double error : layer) EXPECT_LT(error, 1e-4) << r.method;
    }
  }
}

TEST_F(ProbeTest, NobodyKeepsMoreThanTheOracle) {
  const auto results = Mass({"oracle_tokens", "window", "sketch", "cuboid", "oracle_groups"}, {30});
  ASSERT_EQ(results.size(), 5);
  const double oracle = Mean(results[0].kept);
  EXPECT_LT(oracle, 1);
  for (size_t i = 1; i < results.size(); ++i) {
    EXPECT_LT(Mean(results[i].kept), oracle) << results[i].method;
    EXPECT_GT(Mean(results[i].kept), 0.2) << results[i].method;
    EXPECT_NEAR(results[i].keys, results[0].keys, geometry_.group_tokens / 2) << results[i].method;
  }
}

TEST_F(ProbeTest, MoreKeysKeepMore) {
  const auto results = Mass({"sketch"}, {20, 40, 80});
  ASSERT_EQ(results.size(), 3);
  for (int i = 1; i < 3; ++i) {
    EXPECT_GT(results[i].keys, results[i - 1].keys);
    EXPECT_GT(Mean(results[i].kept), Mean(results[i - 1].kept));
    EXPECT_LT(Mean(results[i].error), Mean(results[i - 1].error));
  }
}

TEST_F(ProbeTest, RecallIsOfWhatTheFirstMethodAttends) {
  const auto results = Mass({"sketch@1,1000000", "sketch", "sketch@1,0", "window"}, {30});
  ASSERT_EQ(results.size(), 4);
  EXPECT_NEAR(results[0].recall, 1, 1e-9);
  EXPECT_NEAR(results[1].recall, 1, 1e-9);  // there are fewer chunks than are scanned always
  EXPECT_LT(results[2].recall, 0.999);
  EXPECT_LT(results[3].recall, results[2].recall);
}

TEST_F(ProbeTest, AResidualChangesTheOutputAlone) {
  const auto results = Mass({"sketch", "sketch+residual"}, {20, 100});
  ASSERT_EQ(results.size(), 4);
  EXPECT_EQ(results[0].kept, results[2].kept);
  EXPECT_LT(Mean(results[2].error), Mean(results[0].error));  // attention is nearly even here: means are good
  EXPECT_LT(Mean(results[3].error), 1e-4);                    // nothing is left
}

TEST_F(ProbeTest, TheQuestionBeginsAtItsToken) {
  const std::string haystack = "It was late. The number is 17. ", question = "The number is";
  const auto prompt = EncodePrompt(*model_->tokenizer, haystack + question, haystack.size());
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  std::string before;
  for (size_t i = 0; i < prompt->question; ++i) before += model_->tokenizer->TokenBytes(prompt->tokens[i]);
  EXPECT_EQ(before, haystack);
  EXPECT_FALSE(EncodePrompt(*model_->tokenizer, haystack, haystack.size()).ok());
}

TEST_F(ProbeTest, ABudgetForEverythingAnswersAsDenseDoes) {
  std::string haystack;
  for (int i = 0; i < 60; ++i) haystack += "Sentence " + std::to_string(i) + ". ";
  const auto prompt = EncodePrompt(*model_->tokenizer, haystack + "Sentence", haystack.size());
  ASSERT_TRUE(prompt.ok());
  ASSERT_GT(prompt->tokens.size(), 512);
  const auto answer = [&](const char* configuration) {
    const auto parsed = ParseConfiguration(configuration, KeyBudget());
    EXPECT_TRUE(parsed.ok());
    const auto text = Answer(backend_.get(), geometry_, *model_->tokenizer, *parsed, *prompt, 12);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.ok() ? *text : "";
  };
  const std::string routed = answer("sketch/100000/prefill");
  EXPECT_EQ(routed, answer("dense/0/prefill"));
  EXPECT_FALSE(routed.empty());
}

}  // namespace
}  // namespace hga
