// What the router and its absence do to an answer.
#include <algorithm>
#include <memory>

#include "gpu_worker/engine/testing_engine.h"

namespace hga {
namespace {

using EngineRoutingTest = EngineTest;

TEST_F(EngineRoutingTest, FullBudgetEqualsDense) {
  const auto prompt = RandomTokens(900, 1);
  const Answer dense = Run(Dense(Request(prompt, 100)));
  ASSERT_TRUE(dense.status.ok()) << dense.status;
  EXPECT_EQ(*posts_, 0u);
  const Answer routed = Run(Request(prompt, 100));
  ASSERT_TRUE(routed.status.ok()) << routed.status;
  ASSERT_EQ(dense.tokens.size(), 100u);
  EXPECT_EQ(routed.tokens, dense.tokens);
  EXPECT_GT(*posts_, 0u);
  EXPECT_DOUBLE_EQ(routed.stats.attended_fraction(true), 1.0);
  EXPECT_DOUBLE_EQ(routed.stats.attended_fraction(false), 1.0);
  EXPECT_EQ(routed.reason, FinishReason::kLength);
}

TEST_F(EngineRoutingTest, RoutedRunsRepeatAndAttendLess) {
  const auto prompt = RandomTokens(900, 2);
  const Answer first = Run(Request(prompt, 60, 0.05f));
  const Answer second = Run(Request(prompt, 60, 0.05f));
  ASSERT_TRUE(first.status.ok()) << first.status;
  EXPECT_EQ(first.tokens, second.tokens);
  EXPECT_LT(first.stats.attended_fraction(true), 0.7);
  EXPECT_LT(first.stats.attended_fraction(false), 0.9);
}

TEST_F(EngineRoutingTest, SmallBlocksOfAPromptSelectForThemselves) {
  const auto prompt = RandomTokens(900, 2);
  double attended[2];
  for (const uint32_t block : {16, 64}) {
    EngineOptions options = Routed();
    options.prefill_block_tokens = block;
    Start(true, 0, options);
    const Answer first = Run(Request(prompt, 8, 0.05f)), second = Run(Request(prompt, 8, 0.05f));
    ASSERT_TRUE(first.status.ok()) << first.status;
    EXPECT_EQ(first.tokens, second.tokens);
    attended[block / 64] = first.stats.attended_fraction(false);
  }
  EXPECT_NE(attended[0], attended[1]);
  EngineOptions options;
  options.prefill_block_tokens = 24;
  EXPECT_EQ(options.Validate(model_.geometry).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(EngineRoutingTest, AResidualStandsForWhatIsNotRead) {
  const auto prompt = RandomTokens(900, 2);
  const auto with = [](EngineRequest request) {
    request.budget.residual = true;
    return request;
  };
  const Answer whole = Run(with(Request(prompt, 60)));
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  EXPECT_EQ(whole.tokens, Run(Request(prompt, 60)).tokens);  // there is nothing else to read
  const EngineRequest request = Sampled(Request(prompt, 200, 0.05f), 50);
  const Answer first = Run(with(request));
  EXPECT_EQ(first.tokens, Run(with(request)).tokens);
  EXPECT_NE(first.tokens, Run(request).tokens);
}

TEST_F(EngineRoutingTest, PromptsAreAttendedDenselyUpToABound) {
  const auto prompt = RandomTokens(900, 2);
  EngineOptions options;
  options.dense_prefill_tokens = 640;
  Start(true, 0, options);
  const Answer some = Run(Request(prompt, 4, 0.05f));
  EXPECT_LT(some.stats.attended_fraction(false), 0.99);
  options.dense_prefill_tokens = 1024;
  Start(true, 0, options);
  const Answer all = Run(Request(prompt, 4, 0.05f));
  EXPECT_DOUBLE_EQ(all.stats.attended_fraction(false), 1.0);
  EXPECT_LT(all.stats.attended_fraction(true), 0.7);
  // The same prompt, the same first token: everything that it depends on was attended.
  EXPECT_EQ(all.tokens[0], Run(Dense(Request(prompt, 1))).tokens[0]);
}

TEST_F(EngineRoutingTest, AnswersAreAttendedDenselyUpToABound) {
  const auto prompt = RandomTokens(900, 4);
  const auto below = [&](uint32_t bound) {
    EngineRequest request = Sampled(Request(prompt, 150, 0.05f));
    request.budget.dense_decode_tokens = bound;
    return request;
  };
  EngineOptions options;
  options.dense_prefill_tokens = 1024;
  Start(true, 0, options);
  const Answer dense = Run(Dense(below(0)));
  const Answer all = Run(below(2000));
  ASSERT_TRUE(all.status.ok()) << all.status;
  EXPECT_EQ(all.tokens, dense.tokens);
  EXPECT_EQ(*posts_, 0u);
  EXPECT_EQ(all.stats.ring_exchanges, 0u);
  EXPECT_EQ(all.stats.dense_fallback_steps, 0u);
  EXPECT_DOUBLE_EQ(all.stats.attended_fraction(true), 1.0);

  const Answer some = Run(below(1000));  // of positions 900 to 1048 the last 49 are routed
  ASSERT_TRUE(some.status.ok()) << some.status;
  EXPECT_EQ(some.stats.ring_exchanges, 49u * model_.geometry.layers);
  EXPECT_TRUE(std::equal(all.tokens.begin(), all.tokens.begin() + 101, some.tokens.begin()));
  EXPECT_LT(some.stats.attended_fraction(true), 1.0);
  EXPECT_EQ(Run(below(1000)).tokens, some.tokens);
}

TEST_F(EngineRoutingTest, StepsOfDenseAndRoutedAnswersMix) {
  // One has passed the bound, the other has not: alone and together they answer the same.
  EngineRequest requests[] = {Sampled(Request(RandomTokens(300, 5), 60, 0.05f)),
                              Sampled(Request(RandomTokens(900, 6), 60, 0.05f))};
  Answer alone[2], together[2];
  for (int i = 0; i < 2; ++i) {
    requests[i].budget.dense_decode_tokens = 600;
    alone[i] = Run(requests[i]);
  }
  std::shared_ptr<EventStream> events[] = {*engine_->Submit(requests[0]), *engine_->Submit(requests[1])};
  for (int i = 0; i < 2; ++i) {
    together[i] = Collect(events[i].get());
    ASSERT_TRUE(together[i].status.ok()) << together[i].status;
    EXPECT_EQ(together[i].tokens, alone[i].tokens);
  }
  EXPECT_EQ(together[0].stats.ring_exchanges, 0u);
  EXPECT_GT(together[1].stats.ring_exchanges, 0u);
}

TEST_F(EngineRoutingTest, OneExchangePerLayerAndNoStoreCallOnTheHeldPath) {
  const Answer answer = Run(Request(RandomTokens(900, 3), 80));
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.stats.decode_steps, 79u);
  EXPECT_EQ(answer.stats.ring_exchanges, answer.stats.decode_steps * model_.geometry.layers);
  EXPECT_EQ(answer.stats.kv_rpcs_decode, 0u);
  EXPECT_GT(answer.stats.tiers.held, 0u);
}

TEST_F(EngineRoutingTest, RouterThatDiesOverAHintLeavesDenseAttention) {
  EngineOptions options = Routed();
  options.early_selection = true;
  for (const int64_t exchanges : {20, 21, 22, 23}) {
    Start(true, 0, options);
    const auto request = Request(RandomTokens(900, 10), 20);
    *exchanges_left_ = exchanges;
    const Answer answer = Run(request);
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_GT(answer.stats.dense_fallback_steps, 0u);
    *exchanges_left_ = INT64_MAX;
    Start(false);
    EXPECT_EQ(Run(Dense(request)).tokens, answer.tokens);
  }
}

TEST_F(EngineRoutingTest, DyingRouterLeavesDenseAttention) {
  const auto prompt = RandomTokens(900, 11);
  const Answer whole = Run(Dense(Request(prompt, 60)));
  *exchanges_left_ = 31;  // dies in the middle of a step
  const Answer cut = Run(Request(prompt, 60));
  ASSERT_TRUE(cut.status.ok()) << cut.status;
  EXPECT_EQ(cut.tokens, whole.tokens);
  EXPECT_GT(cut.stats.dense_fallback_steps, 0u);
  EXPECT_EQ(cut.stats.warnings.size(), 1u);
}

TEST_F(EngineRoutingTest, ReturningRouterIsUsedAgain) {
  const auto prompt = RandomTokens(900, 12);
  const Answer whole = Run(Dense(Request(prompt, 200)));
  *exchanges_left_ = 11;
  const Answer cut = Run(Request(prompt, 200), [&](size_t tokens) {
    if (tokens != 10) return;
    *exchanges_left_ = INT64_MAX;
    while (!link_->attached()) absl::SleepFor(absl::Milliseconds(1));
  });
  ASSERT_TRUE(cut.status.ok()) << cut.status;
  EXPECT_EQ(cut.tokens, whole.tokens);
  EXPECT_GT(cut.stats.dense_fallback_steps, 0u);
  const Answer after = Run(Request(prompt, 20));
  EXPECT_EQ(after.stats.dense_fallback_steps, 0u);
  EXPECT_GT(after.stats.ring_exchanges, 0u);
}

TEST_F(EngineRoutingTest, WithoutRouterTheDenseBoundHolds) {
  EngineOptions options = Routed();
  options.max_dense_tokens = 512;
  Start(false, 0, options);
  EXPECT_TRUE(Run(Request(RandomTokens(400, 13), 10)).status.ok());
  const Answer answer = Run(Request(RandomTokens(900, 13), 10));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kUnavailable) << answer.status;
}

}  // namespace
}  // namespace hga
