// The trained model through our loader, tokenizer and backends, against what PyTorch computed (make_golden.py).
#include "tests/quality/tiny_model/trained_model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/backend/sequence_runner.h"
#include "gpu_worker/model/loaded_model.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

constexpr size_t kMostFileBytes = 4 << 20;
constexpr size_t kStepTokens = 256;
constexpr float kReferenceTolerance = 0.01f;
// The cpu backend multiplies in bf16.
constexpr float kCpuTolerance = 0.3f;

class TinyModelTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto model = LoadModel(kTrainedModelPath);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = model->release();
    std::ifstream file("tests/quality/tiny_model/golden.json");
    golden_ = new nlohmann::json(nlohmann::json::parse(file));
  }
  static void TearDownTestSuite() {
    delete model_;
    delete golden_;
    model_ = nullptr;
    golden_ = nullptr;
  }

  void SetUp() override { ASSERT_NE(golden_, nullptr); }

  static const LoadedModel& model() { return *model_; }
  static const nlohmann::json& prompts() { return golden_->at("prompts"); }

  // Logits of every position, [tokens][vocab].
  static std::vector<float> Run(const std::string& backend, const std::vector<uint32_t>& ids) {
    SequenceRunner runner(backend, model().weights, /*threads=*/1);
    std::vector<float> logits;
    for (size_t begin = 0; begin < ids.size(); begin += kStepTokens) {
      const size_t end = std::min(ids.size(), begin + kStepTokens);
      const std::vector<float> step = runner.Step({ids.begin() + begin, ids.begin() + end});
      logits.insert(logits.end(), step.begin(), step.end());
    }
    return logits;
  }

  static void ExpectAnswers(const nlohmann::json& prompt, const std::vector<float>& logits) {
    const std::vector<uint32_t> ids = prompt.at("ids");
    const size_t vocab = model().weights.config.vocab_size;
    ASSERT_EQ(logits.size(), ids.size() * vocab);
    for (const size_t position : prompt.at("wanted")) {
      const float* row = &logits[position * vocab];
      EXPECT_EQ(std::max_element(row, row + vocab) - row, ids[position + 1]) << "position " << position;
    }
  }

  static void ExpectLogits(const nlohmann::json& prompt, const std::vector<float>& logits, float tolerance) {
    const size_t vocab = model().weights.config.vocab_size;
    const size_t stride = golden_->at("stride");
    float worst = 0;
    for (const nlohmann::json& kept : prompt.at("logits")) {
      const float* row = &logits[kept.at("position").get<size_t>() * vocab];
      const std::vector<float> values = kept.at("values");
      ASSERT_EQ(values.size(), vocab / stride);
      for (size_t i = 0; i < values.size(); ++i) worst = std::max(worst, std::abs(values[i] - row[i * stride]));
    }
    EXPECT_LT(worst, tolerance);
    std::cout << "largest difference of a logit: " << worst << "\n";
  }

 private:
  static LoadedModel* model_;
  static nlohmann::json* golden_;
};

LoadedModel* TinyModelTest::model_ = nullptr;
nlohmann::json* TinyModelTest::golden_ = nullptr;

TEST_F(TinyModelTest, IsASmallQwen3) {
  EXPECT_LE(std::filesystem::file_size(kTrainedModelPath), kMostFileBytes);
  const ModelConfig& config = model().weights.config;
  EXPECT_EQ(config.architecture, "qwen3");
  EXPECT_TRUE(config.qk_norm);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_GT(config.query_heads, config.kv_heads);
  EXPECT_GE(config.context_tokens, 8192u);
}

TEST_F(TinyModelTest, TextBecomesTheTokensItWasTrainedOn) {
  for (const nlohmann::json& prompt : prompts()) {
    const auto ids = model().tokenizer->Encode(prompt.at("text").get<std::string>(), /*parse_special=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    const std::vector<uint32_t> expected = prompt.at("ids");
    EXPECT_EQ(*ids, std::vector<uint32_t>(expected.begin() + 1, expected.end()));  // the first begins the document
  }
}

TEST_F(TinyModelTest, ReferenceBackendLooksUpAndAgreesWithPyTorch) {
  const nlohmann::json& shortest = prompts().front();
  const std::vector<float> logits = Run("reference", shortest.at("ids"));
  ExpectAnswers(shortest, logits);
  ExpectLogits(shortest, logits, kReferenceTolerance);
}

TEST_F(TinyModelTest, CpuBackendLooksUpOverThousandsOfTokens) {
  ASSERT_GE(prompts().back().at("ids").size(), 4096u);
  for (size_t i = 1; i < prompts().size(); ++i) {
    const nlohmann::json& prompt = prompts()[i];
    SCOPED_TRACE(prompt.at("ids").size());
    const std::vector<float> logits = Run("cpu", prompt.at("ids"));
    ExpectAnswers(prompt, logits);
    ExpectLogits(prompt, logits, kCpuTolerance);
  }
}

}  // namespace
}  // namespace hga
