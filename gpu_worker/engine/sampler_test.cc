#include "gpu_worker/engine/sampler.h"

#include <cmath>
#include <random>

#include "gpu_worker/backend/top_logits.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

uint32_t Pick(Sampler* sampler, std::vector<float> logits, const std::vector<uint32_t>& history = {}) {
  return sampler->Sample(absl::MakeSpan(logits), history);
}

TEST(SamplerTest, GreedyTakesTheLowestOfEquals) {
  Sampler sampler({});
  EXPECT_EQ(Pick(&sampler, {1, 3, 2, 3}), 1u);
  EXPECT_EQ(Pick(&sampler, {NAN, -5, NAN}), 1u);
}

TEST(SamplerTest, EqualSeedsGiveEqualTokensAndOthersDoNot) {
  const std::vector<float> logits(50, 0.0f);
  const auto draw = [&](uint64_t seed) {
    SamplingOptions options;
    options.temperature = 1;
    options.seed = seed;
    Sampler sampler(options);
    std::vector<uint32_t> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(Pick(&sampler, logits));
    return ids;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
}

TEST(SamplerTest, DrawsFollowTheProbabilities) {
  SamplingOptions options;
  options.temperature = 1;
  Sampler sampler(options);
  int ones = 0;
  for (int i = 0; i < 4000; ++i) ones += Pick(&sampler, {0, std::log(3.0f)}) == 1;
  EXPECT_NEAR(ones / 4000.0, 0.75, 0.03);
}

TEST(SamplerTest, TruncationKeepsTheLikely) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  const auto highest = [&](SamplingOptions options) {
    options.temperature = 1;
    Sampler sampler(options);
    uint32_t most = 0;
    for (int i = 0; i < 500; ++i) most = std::max(most, Pick(&sampler, logits));
    return most;
  };
  SamplingOptions top_k, top_p, min_p;
  top_k.top_k = 2;
  top_p.top_p = 0.7f;
  min_p.min_p = 0.2f;
  EXPECT_EQ(highest({}), 3u);
  EXPECT_EQ(highest(top_k), 1u);
  EXPECT_EQ(highest(top_p), 1u);
  EXPECT_EQ(highest(min_p), 2u);
}

TEST(SamplerTest, RepetitionPenaltyLowersWhatWasSaid) {
  SamplingOptions options;
  options.repetition_penalty = 2;
  Sampler sampler(options);
  EXPECT_EQ(Pick(&sampler, {3, 2}, {0, 0}), 1u);
  EXPECT_EQ(Pick(&sampler, {3, 1}, {0}), 0u);  // once, however often it was said
  EXPECT_EQ(Pick(&sampler, {-1, -1.5f}, {0}), 1u);
}

TEST(SamplerTest, LogitsMustBeNumbers) {
  std::vector<float> logits(1001, -3.0e38f);
  logits[5] = 3.4e38f;
  EXPECT_TRUE(CheckLogits(logits).ok());
  EXPECT_TRUE(CheckLogits({}).ok());
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    logits[1000] = bad;
    const absl::Status status = CheckLogits(logits);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_NE(status.message().find("logit of token 1000 is "), absl::string_view::npos) << status;
  }
}

TEST(SamplerTest, AbsurdValuesAreRefused) {
  for (const auto change : {+[](SamplingOptions* o) { o->temperature = -1; },
                            +[](SamplingOptions* o) { o->temperature = NAN; },
                            +[](SamplingOptions* o) { o->top_p = 1.5f; },
                            +[](SamplingOptions* o) { o->min_p = -0.1f; },
                            +[](SamplingOptions* o) { o->repetition_penalty = 0; }}) {
    SamplingOptions options;
    change(&options);
    EXPECT_EQ(options.Validate().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(SamplingOptions().Validate().ok());
}

// What is left of the vocabulary decides alone: the same tokens, draw by draw.
TEST(SamplerTest, TheBestLogitsGiveTheSameTokensAsAll) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  std::vector<SamplingOptions> kinds(4);
  kinds[1].temperature = 0.8f;
  kinds[1].top_k = 20;
  kinds[2] = kinds[1];
  kinds[2].top_p = 0.7f;
  kinds[3] = kinds[1];
  kinds[3].top_k = kMaxTopLogits;
  kinds[3].min_p = 0.05f;
  for (SamplingOptions& options : kinds) {
    options.seed = 3;
    Sampler whole(options), few(options);
    ASSERT_GT(whole.top_needed(), 0u);
    for (int i = 0; i < 50; ++i) {
      std::vector<float> logits(300);
      for (float& x : logits) x = std::round(normal(random) * 4);
      std::vector<TokenLogit> top;
      AppendTopLogits(logits, std::min(whole.top_needed() + i % 2, kMaxTopLogits), &top);
      EXPECT_EQ(few.SampleTop(top), whole.Sample(absl::MakeSpan(logits), {}));
    }
  }
}

TEST(SamplerTest, SaysWhenAllLogitsAreNeeded) {
  SamplingOptions penalty, warm, wide;
  penalty.repetition_penalty = 1.1f;
  warm.temperature = 1;
  wide.temperature = 1;
  wide.top_k = kMaxTopLogits + 1;
  for (const SamplingOptions& options : {penalty, warm, wide}) EXPECT_EQ(Sampler(options).top_needed(), 0u);
}

TEST(SamplerTest, BestLogitsThatAreNotNumbersAreRefused) {
  const TokenLogit good[] = {{3, 1.0f}}, bad[] = {{3, NAN}};
  EXPECT_TRUE(CheckTopLogits(good).ok());
  EXPECT_EQ(CheckTopLogits(bad).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(CheckTopLogits({}).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace hga
