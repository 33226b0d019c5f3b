// Routing, tiers and transports must not change a token that they are not meant to change.
#include <csignal>

#include "gtest/gtest.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

// Each test runs on the tiny random model and, where HGA_MODEL_DIR has it, on the real one.
class ExactnessTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!GetParam()) return;
    options_.model = RealModelPath();
    options_.arena_bytes = "512MiB";
    if (options_.model.empty()) GTEST_SKIP() << "HGA_MODEL_DIR does not hold the real model";
  }

  uint32_t prompt_tokens() const { return GetParam() ? 1100 : 1500; }

  StackOptions options_;
};

TEST_P(ExactnessTest, FullBudgetEqualsDenseTokenForToken) {
  Stack stack(options_);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = TokenRequest(prompt_tokens(), 1, 256);
  const Answer dense = stack.Generate(Dense(request));
  const Answer routed = stack.Generate(Routed(request, 1.0f));
  ASSERT_TRUE(dense.status.ok()) << dense.status;
  ASSERT_TRUE(routed.status.ok()) << routed.status;
  ASSERT_EQ(dense.tokens.size(), 256u);
  EXPECT_EQ(routed.tokens, dense.tokens);
  EXPECT_GT(routed.finished.ring_exchanges(), 0u) << "the router was never asked: nothing was compared";
  EXPECT_EQ(dense.finished.ring_exchanges(), 0u);
  EXPECT_DOUBLE_EQ(routed.finished.attended_fraction(), 1.0);
}

TEST_P(ExactnessTest, RunsRepeatBitForBit) {
  Stack stack(options_);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = Routed(TokenRequest(prompt_tokens(), 2, 64), 0.1f);
  const Answer first = stack.Generate(request);
  const Answer second = stack.Generate(request);
  ASSERT_TRUE(first.status.ok()) << first.status;
  EXPECT_EQ(first.tokens, second.tokens);
  EXPECT_LT(first.finished.attended_fraction(), 0.8);
}

TEST_P(ExactnessTest, RingAndStreamGiveTheSameTokens) {
  const auto request = Routed(TokenRequest(prompt_tokens(), 3, 64), 0.1f);
  std::vector<std::vector<uint32_t>> tokens;
  for (const std::string transport : {"ring", "stream"}) {
    StackOptions options = options_;
    options.worker_flags.push_back("--router_transport=" + transport);
    Stack stack(options);
    ASSERT_EQ(stack.Start(), absl::OkStatus());
    const Answer answer = stack.Generate(request);
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    ASSERT_EQ(answer.finished.dense_fallback_steps(), 0u);
    tokens.push_back(answer.tokens);

    grpc::ClientContext context;
    router::v1::GetStatsResponse stats;
    ASSERT_TRUE(stack.router_stub()->GetStats(&context, {}, &stats).ok());
    EXPECT_GT(transport == "ring" ? stats.ring_exchanges() : stats.stream_exchanges(), 0u);
    EXPECT_EQ(transport == "ring" ? stats.stream_exchanges() : stats.ring_exchanges(), 0u);
  }
  EXPECT_EQ(tokens[0], tokens[1]);
}

// A worker that holds a third of the document at a time, as on another host.
TEST_P(ExactnessTest, ArenaAndBytesGiveTheSameTokens) {
  const auto request = InSession(Routed(TokenRequest(700, 9, 24), 0.3f), "doc");
  std::vector<std::vector<uint32_t>> answers;
  for (const std::string transport : {"arena", "bytes"}) {
    StackOptions options = options_;
    options.worker_flags.push_back("--kv_transport=" + transport);
    Stack stack(options);
    ASSERT_EQ(stack.Start(), absl::OkStatus());
    for (int turn = 0; turn < 2; ++turn) {  // computed, then read back
      const Answer answer = stack.Generate(request);
      ASSERT_TRUE(answer.status.ok()) << answer.status << stack.log("gpu_worker");
      answers.push_back(answer.tokens);
    }
  }
  for (const auto& answer : answers) EXPECT_EQ(answer, answers[0]);
}

TEST_P(ExactnessTest, EvictingEverythingToDiskBetweenTurnsChangesNoToken) {
  const auto first_turn = InSession(Routed(TokenRequest(prompt_tokens(), 4, 32), 0.1f), "doc");
  auto second_turn = InSession(Routed(TokenRequest(40, 5, 64), 0.1f), "doc");
  second_turn.set_append(true);
  std::vector<std::vector<uint32_t>> tokens;
  for (const bool evict : {false, true}) {
    Stack stack(options_);
    ASSERT_EQ(stack.Start(), absl::OkStatus());
    ASSERT_TRUE(stack.Generate(first_turn).status.ok());
    if (evict) {
      ASSERT_EQ(stack.FlushToDisk(), absl::OkStatus());
    }
    const Answer answer = stack.Generate(second_turn);
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_GT(answer.started.reused_tokens(), prompt_tokens() - 128);
    if (evict) {
      EXPECT_GT(answer.finished.tiers().disk(), 0u) << "nothing came from disk: nothing was compared";
    } else {
      EXPECT_EQ(answer.finished.tiers().disk(), 0u);
    }
    tokens.push_back(answer.tokens);
  }
  EXPECT_EQ(tokens[0], tokens[1]);
}

TEST_P(ExactnessTest, RouterKilledGenerationGoesOnDensely) {
  Stack stack(options_);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  // At full budget the dense fallback must give the very tokens that routing would have given.
  const auto request = Routed(TokenRequest(prompt_tokens(), 6, 128), 1.0f);
  const Answer whole = stack.Generate(Dense(request));
  const Answer cut = stack.Generate(request, [&](size_t tokens) {
    if (tokens == 10) stack.router.Signal(SIGKILL);
    return true;
  });
  ASSERT_TRUE(cut.status.ok()) << cut.status;
  EXPECT_EQ(cut.tokens, whole.tokens);
  EXPECT_GT(cut.finished.dense_fallback_steps(), 0u);
  EXPECT_GT(cut.finished.warnings_size(), 0);

  // And back: a new router is found and used without anybody's help.
  ASSERT_EQ(stack.StartRouter(), absl::OkStatus());
  ASSERT_EQ(stack.WaitForWorker([](const auto& stats) { return stats.router_attached(); }), absl::OkStatus());
  const Answer again = stack.Generate(request);
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_EQ(again.finished.dense_fallback_steps(), 0u);
  EXPECT_GT(again.finished.ring_exchanges(), 0u);
}

TEST_P(ExactnessTest, OneExchangePerLayerAndNoRpcOnTheRamHitPath) {
  Stack stack(options_);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = InSession(Routed(TokenRequest(prompt_tokens(), 7, 64), 1.0f), "hot");
  const Answer answer = stack.Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  const uint32_t layers = GetParam() ? 30 : 2;
  EXPECT_EQ(answer.finished.ring_exchanges(), layers * answer.finished.decode_steps());
  EXPECT_EQ(answer.finished.kv_rpcs_decode(), 0u);
}

TEST_P(ExactnessTest, SecondRunComputesOnlyTheUnfinishedChunk) {
  Stack stack(options_);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = InSession(Routed(TokenRequest(prompt_tokens(), 8, 16), 0.2f), "doc");
  const Answer first = stack.Generate(request);
  const Answer second = stack.Generate(request);
  ASSERT_TRUE(first.status.ok()) << first.status;
  ASSERT_TRUE(second.status.ok()) << second.status;
  EXPECT_EQ(first.started.reused_tokens(), 0u);
  EXPECT_EQ(second.started.reused_tokens(), (prompt_tokens() - 1) / 64 * 64);
  EXPECT_EQ(second.finished.kv_rpcs_decode(), 0u) << "the document was in RAM";
  EXPECT_EQ(first.tokens, second.tokens);
}

INSTANTIATE_TEST_SUITE_P(Models, ExactnessTest, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "real" : "tiny"; });

}  // namespace
}  // namespace hga
