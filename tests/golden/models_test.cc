// Tiny models of every architecture, format and RoPE scaling against what transformers computes (make_models.py):
// logits at every position, keys and values of every layer.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/backend/sequence_runner.h"
#include "gpu_worker/model/gguf.h"
#include "gpu_worker/model/gguf_model.h"
#include "gpu_worker/model/hf_model.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

const char kFolder[] = "tests/golden/models/";

std::string ReadFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream.good()) << path;
  return std::string((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
}

const nlohmann::json& List() {
  static const auto* list = new nlohmann::json(nlohmann::json::parse(ReadFile(std::string(kFolder) + "models.json")));
  return *list;
}

class ModelsTest : public testing::TestWithParam<size_t> {
 protected:
  ModelsTest() : entry_(List()["models"][GetParam()]), tokens_(List()["tokens"].get<std::vector<uint32_t>>()) {
    const std::string path = kFolder + entry_["file"].get<std::string>();
    if (path.size() > 5 && path.substr(path.size() - 5) == ".gguf") {
      auto file = GgufFile::Open(path);
      EXPECT_TRUE(file.ok()) << file.status();
      gguf_ = *std::move(file);
      auto weights = ReadGgufModel(*gguf_);
      EXPECT_TRUE(weights.ok()) << weights.status();
      weights_ = *std::move(weights);
    } else {
      auto model = ReadHfModel(path);
      EXPECT_TRUE(model.ok()) << model.status();
      hf_ = *std::move(model);
      weights_ = hf_->weights;
    }
    expected_ = ReadFile(kFolder + entry_["expected"].get<std::string>());
  }

  std::vector<float> ExpectedLogits() const {
    std::vector<float> logits(tokens_.size() * weights_.config.vocab_size);
    EXPECT_GE(expected_.size(), logits.size() * sizeof(float));
    std::memcpy(logits.data(), expected_.data(), logits.size() * sizeof(float));
    return logits;
  }

  // In the order of SequenceRunner::KvRows.
  std::vector<float> ExpectedKvRows() const {
    const ModelConfig& c = weights_.config;
    const size_t tokens = tokens_.size(), d = c.head_dim, half = d / 2;
    const auto* kv = reinterpret_cast<const bf16*>(expected_.data() + tokens * c.vocab_size * sizeof(float));
    EXPECT_EQ(expected_.size(), tokens * c.vocab_size * sizeof(float) + c.layers * 2 * c.kv_heads * tokens * d * 2);
    std::vector<float> rows;
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t layer = 0; layer < c.layers; ++layer) {
        for (size_t h = 0; h < c.kv_heads; ++h) {
          const bf16* k = kv + ((layer * 2 * c.kv_heads + h) * tokens + t) * d;
          const bf16* v = k + c.kv_heads * tokens * d;
          for (size_t i = 0; i < d; ++i) {
            rows.push_back(ToFloat(k[entry_["neighbours"].get<bool>() ? i / 2 + i % 2 * half : i]));
            rows.push_back(ToFloat(v[i]));
          }
        }
      }
    }
    return rows;
  }

  const nlohmann::json entry_;
  const std::vector<uint32_t> tokens_;
  std::unique_ptr<GgufFile> gguf_;
  std::unique_ptr<HfModel> hf_;
  ModelWeights weights_;
  std::string expected_;
};

double Worst(const std::vector<float>& actual, const std::vector<float>& expected) {
  double worst = actual.size() == expected.size() ? 0 : INFINITY;
  for (size_t i = 0; i < expected.size() && i < actual.size(); ++i) {
    const double error = std::fabs(double{actual[i]} - expected[i]);
    worst = error >= 0 ? std::max(worst, error) : INFINITY;
  }
  return worst;
}

double Rms(const std::vector<float>& actual, const std::vector<float>& expected) {
  double squares = actual.size() == expected.size() ? 0 : INFINITY;
  for (size_t i = 0; i < expected.size() && i < actual.size(); ++i) {
    squares += std::pow(double{actual[i]} - expected[i], 2);
  }
  return std::sqrt(squares / expected.size());
}

TEST_P(ModelsTest, ReferenceBackendGivesTheLogitsAndTheKeysAndValues) {
  SequenceRunner runner("reference", weights_);
  EXPECT_LE(Worst(runner.Step(tokens_), ExpectedLogits()), 1e-4);
  const std::vector<float> actual = runner.KvRows(), expected = ExpectedKvRows();
  ASSERT_EQ(actual.size(), expected.size());
  size_t rounded_apart = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (actual[i] == expected[i]) continue;
    ++rounded_apart;
    EXPECT_LE(std::fabs(actual[i] - expected[i]), std::fabs(expected[i]) / 128 + 2e-5)
        << i;  // one step of bf16; float32's RoPE
  }
  // What lies on the edge between two numbers of bf16 may fall on either side.
  EXPECT_LE(rounded_apart, expected.size() / 1000);
}

// Decoding token by token stays in float; whole prompts go through GEMM in bf16, where there is one.
TEST_P(ModelsTest, CpuBackendIsClose) {
  const std::vector<float> expected = ExpectedLogits();
  const double rms = Rms(expected, std::vector<float>(expected.size()));
  SequenceRunner decode("cpu", weights_), prefill("cpu", weights_);
  std::vector<float> logits;
  for (uint32_t token : tokens_) {
    for (float x : decode.Step({token})) logits.push_back(x);
  }
  EXPECT_LE(Worst(logits, expected), 0.02 * rms);
  EXPECT_LE(Rms(prefill.Step(tokens_), expected), 0.05 * rms);
}

std::string NameOf(const testing::TestParamInfo<size_t>& info) {
  return List()["models"][info.param]["name"].get<std::string>();
}

INSTANTIATE_TEST_SUITE_P(Models, ModelsTest, testing::Range<size_t>(0, List()["models"].size()), NameOf);

}  // namespace
}  // namespace hga
