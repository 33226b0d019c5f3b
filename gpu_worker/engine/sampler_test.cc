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

// What Backend::TopLogits makes of a row.
std::optional<uint32_t> PickTop(Sampler* sampler, std::vector<float> logits, const std::vector<uint32_t>& history) {
  const TopRow row = sampler->top_row(history, static_cast<uint32_t>(logits.size()));
  if (row.penalty != 1) PenalizeLogits(row.penalty, row.seen, absl::MakeSpan(logits));
  std::vector<TokenLogit> top;
  AppendTopLogits(logits, sampler->top_needed(), &top);
  uint64_t mass = 0;
  for (const float logit : logits) mass += row.temperature > 0 ? LogitMass(logit, top[0].logit, row.temperature) : 0;
  return sampler->SampleTop(top, mass);
}

SamplingOptions Warm(float temperature, uint32_t top_k, float top_p, float min_p, float penalty) {
  SamplingOptions options;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.min_p = min_p;
  options.repetition_penalty = penalty;
  options.seed = 3;
  return options;
}

// What is left of the vocabulary decides alone: the same tokens, draw by draw. Where it does not, it says so, and all
// logits give the token that they would have given.
TEST(SamplerTest, TheBestLogitsGiveTheSameTokensAsAll) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  uint32_t decided = 0, undecided = 0;
  for (const SamplingOptions& options :
       {Warm(0, 0, 0, 0, 1), Warm(0, 0, 0, 0, 1.4f), Warm(0.8f, 20, 0, 0, 1), Warm(0.8f, 20, 0.7f, 0, 1.2f),
        Warm(0.8f, kMaxTopLogits, 0, 0.05f, 1), Warm(0.8f, 0, 0.9f, 0, 1), Warm(0.8f, 0, 0, 0.02f, 0.8f),
        Warm(3, 0, 0.9f, 0, 1.1f), Warm(3, 0, 0, 0.001f, 1), Warm(1, 0, 0, 0, 1), Warm(6, 0, 1, 0, 1)}) {
    Sampler whole(options), few(options);
    std::vector<uint32_t> history = {3, 299, 400};
    for (int i = 0; i < 50; ++i) {
      std::vector<float> logits(300);
      for (float& x : logits) x = std::round(normal(random) * 4);
      std::optional<uint32_t> token = PickTop(&few, logits, history);
      (token.has_value() ? decided : undecided) += 1;
      if (!token.has_value()) token = Pick(&few, logits, history);
      EXPECT_EQ(*token, Pick(&whole, logits, history));
      history.push_back(*token);
    }
  }
  EXPECT_GT(decided, 400u);
  EXPECT_GT(undecided, 20u);
}

TEST(SamplerTest, SaysWhenAllLogitsAreNeeded) {
  EXPECT_EQ(Sampler(Warm(1, kMaxTopLogits + 1, 0, 0, 1)).top_needed(), 0u);
  EXPECT_EQ(Sampler(Warm(1, 0, 0, 0, 1.1f)).top_needed(), kMaxTopLogits);
  EXPECT_EQ(Sampler(Warm(0, 0, 0, 0, 1.1f)).top_needed(), 1u);
}

TEST(SamplerTest, BestLogitsThatAreNotNumbersAreRefused) {
  const TokenLogit good[] = {{3, 1.0f}}, bad[] = {{3, NAN}};
  EXPECT_TRUE(CheckTopLogits(good).ok());
  EXPECT_EQ(CheckTopLogits(bad).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(CheckTopLogits({}).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace hga
