// Greedy tokens of the real model against transformers' in float32 on the dequantised weights (make_greedy.py).
//
// A token may differ only at a near tie: where the two best logits are closer than the tolerance of the path under
// test, here and in the reference. It is printed, and the comparison goes on along the reference's tokens.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/sequence_runner.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/model/test_model_dir.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

// How far a path may be from float32. The logits have a standard deviation of 5.9.
struct Tolerance {
  double near_tie;      // difference of two logits
  double worst;         // of one logit
  double kv_roundings;  // mean error, in units of what rounding K and V to bf16 does to transformers itself
};
// Up to 8 rows are multiplied in float32: what is left is the K/V, which are bf16 everywhere.
constexpr Tolerance kSmallBatch{0.08, 0.15, 1.5};
// GEMM rounds weights and activations to bf16 as well.
constexpr Tolerance kGemm{0.2, 0.4, 4};

// Sums up the error of logits.
struct Error {
  size_t count = 0;
  double worst = 0, squares = 0;

  void Add(double error) {
    worst = std::max(worst, std::fabs(error));
    squares += error * error;
    ++count;
  }
  double mean() const { return std::sqrt(squares / static_cast<double>(std::max<size_t>(1, count))); }
};

struct Case {
  std::vector<uint32_t> prompt, tokens;
  std::vector<float> margins;  // of each token to the runner-up
  nlohmann::json logits;
};

class GreedyParityTest : public testing::Test {
 protected:
  void SetUp() override {
    if (RealModelPath().empty()) GTEST_SKIP() << kNoRealModel;
    auto loaded = LoadModel(RealModelPath());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    model_ = *std::move(loaded);
    std::ifstream stream("tests/golden/greedy_smollm2.json");
    ASSERT_TRUE(stream.good());
    const auto golden = nlohmann::json::parse(stream);
    stride_ = golden["logit_stride"];
    for (const auto& c : golden["cases"]) cases_.push_back({c["prompt"], c["tokens"], c["margins"], c["logits"]});
    ASSERT_EQ(cases_.size(), 20u);
  }

  // Runs the prompt and the reference's tokens behind it, so many rows in a step, and checks every token.
  void Follow(const std::vector<size_t>& numbers, size_t prompt_rows, size_t answer_rows, const Tolerance& tolerance) {
    SequenceRunner runner("cpu", model_->weights, 1);  // a team of threads only waits for itself on a busy machine
    const size_t vocab = model_->weights.config.vocab_size;
    for (const size_t number : numbers) {
      const Case& c = cases_[number];
      runner.Restart();
      const auto prompt = Run(&runner, c.prompt, prompt_rows);
      CheckToken(number, 0, &prompt[prompt.size() - vocab], tolerance);
      for (size_t step = 1; step < c.tokens.size();) {
        const size_t rows = std::min(answer_rows, c.tokens.size() - step);
        const auto at = c.tokens.begin() + static_cast<ptrdiff_t>(step) - 1;
        const auto logits = runner.Step({at, at + static_cast<ptrdiff_t>(rows)});
        for (size_t i = 0; i < rows; ++i) CheckToken(number, step + i, &logits[i * vocab], tolerance);
        step += rows;
      }
    }
    EXPECT_EQ(compared_, 200 * numbers.size());
    EXPECT_GT(error_.count, 0u);
    EXPECT_LT(error_.mean(), tolerance.kv_roundings * kv_rounding_.mean());
    EXPECT_LT(error_.worst, tolerance.worst);
    std::printf("%zu of %zu tokens equal, %zu near ties; error of %zu logits: %.4f (root of mean square), %.4f "
                "(worst); rounding K and V alone: %.4f, %.4f\n",
                compared_ - ties_, compared_, ties_, error_.count, error_.mean(), error_.worst, kv_rounding_.mean(),
                kv_rounding_.worst);
  }

  // Returns the logits of the last step.
  static std::vector<float> Run(SequenceRunner* runner, const std::vector<uint32_t>& tokens, size_t rows) {
    std::vector<float> logits;
    for (size_t at = 0; at < tokens.size(); at += rows) {
      const size_t end = std::min(tokens.size(), at + rows);
      logits = runner->Step(std::vector<uint32_t>(&tokens[at], tokens.data() + end));
    }
    return logits;
  }

  // logits: [vocab] after the reference's first `step` tokens.
  void CheckToken(size_t number, size_t step, const float* logits, const Tolerance& tolerance) {
    const Case& c = cases_[number];
    const std::string where = absl::StrCat("prompt ", number, ", token ", step);
    const auto best =
        static_cast<uint32_t>(std::max_element(logits, logits + model_->weights.config.vocab_size) - logits);
    ++compared_;
    if (best != c.tokens[step]) {
      const float gap = logits[best] - logits[c.tokens[step]];
      std::printf("near tie: %s: %u instead of %u; margin %.4f in the reference, %.4f here\n", where.c_str(), best,
                  c.tokens[step], c.margins[step], gap);
      EXPECT_LT(c.margins[step], tolerance.near_tie) << where;
      EXPECT_LT(gap, tolerance.near_tie) << where;
      ++ties_;
    }
    for (const auto& golden : c.logits) {
      if (golden["step"] != step) continue;
      // Every stride_-th of the vocabulary; with K and V in float32, and as transformers has them in bf16.
      const std::vector<double> expected = golden["values"], rounded = golden["bf16_kv"];
      for (size_t i = 0; i < expected.size(); ++i) {
        error_.Add(logits[i * stride_] - expected[i]);
        kv_rounding_.Add(rounded[i] - expected[i]);
      }
    }
  }

  std::vector<size_t> All() const {
    std::vector<size_t> numbers(cases_.size());
    std::iota(numbers.begin(), numbers.end(), 0);
    return numbers;
  }

  std::unique_ptr<LoadedModel> model_;
  std::vector<Case> cases_;
  size_t stride_ = 0;
  size_t compared_ = 0, ties_ = 0;
  Error error_, kv_rounding_;
};

constexpr size_t kDecode = 1, kSmall = 8, kChunk = 64;

// In few passes over prompt and answer, as a prompt is read.
TEST_F(GreedyParityTest, PrefillAlongTheReferencesTokens) { Follow(All(), kChunk, kChunk, kGemm); }

// In batches so small that they are multiplied as single tokens are.
TEST_F(GreedyParityTest, SmallBatchesAlongTheReferencesTokens) { Follow(All(), kSmall, kSmall, kSmallBatch); }

// As an answer is made: each token by itself, behind a prompt that was read in one step.
TEST_F(GreedyParityTest, DecodeTokenByToken) { Follow({0, 8, 19}, kChunk, kDecode, kGemm); }

}  // namespace
}  // namespace hga
