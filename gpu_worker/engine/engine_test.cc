// Requests to the engine, from admission to their end, and what a session keeps of them.
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gpu_worker/engine/testing_engine.h"

namespace hga {
namespace {

TEST_F(EngineTest, AppendEqualsNeverStopped) {
  const auto prompt = RandomTokens(700, 4);
  const Answer whole = Run(Dense(Request(prompt, 80)));
  // 64 tokens on: the manifest's tail would be a whole chunk, which is the edge.
  for (uint32_t cut : {1u, 4u, 5u, 30u}) {
    const std::string name = absl::StrCat("s", cut);
    const Answer first = Run(InSession(Request(prompt, cut), name));
    ASSERT_TRUE(first.status.ok()) << first.status;
    EXPECT_TRUE(first.stats.warnings.empty()) << first.stats.warnings[0];
    // The next token is given by hand: appending needs an input.
    EngineRequest more = InSession(Request({whole.tokens[cut]}, 79 - cut), name, true);
    const Answer rest = Run(more);
    ASSERT_TRUE(rest.status.ok()) << rest.status;
    EXPECT_EQ(rest.started.prompt_tokens, 700 + cut + 1);
    EXPECT_GE(rest.started.reused_tokens, 640u);
    std::vector<uint32_t> tokens = first.tokens;
    tokens.push_back(whole.tokens[cut]);
    tokens.insert(tokens.end(), rest.tokens.begin(), rest.tokens.end());
    EXPECT_EQ(tokens, whole.tokens) << cut;
  }
}

TEST_F(EngineTest, SecondRunComputesOnlyTheUnfinishedChunk) {
  const auto request = InSession(Request(RandomTokens(640, 5), 70), "doc");
  const Answer first = Run(request);
  const Answer second = Run(request);
  ASSERT_TRUE(second.status.ok()) << second.status;
  EXPECT_EQ(first.started.reused_tokens, 0u);
  EXPECT_EQ(second.started.reused_tokens, 576u);  // one token at least is computed
  EXPECT_EQ(first.tokens, second.tokens);
}

TEST_F(EngineTest, SequencesDoNotDependOnTheirCompany) {
  std::vector<EngineRequest> requests;
  for (uint32_t i = 0; i < 3; ++i) {
    requests.push_back(Request(RandomTokens(300 + 170 * i, 20 + i), 60, 0.1f));
    requests.back().budget.residual = i == 1;
  }
  std::vector<Answer> alone;
  for (const EngineRequest& request : requests) alone.push_back(Run(request));
  std::vector<std::shared_ptr<EventStream>> together;
  for (const EngineRequest& request : requests) together.push_back(*engine_->Submit(request));
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(Collect(together[i].get()).tokens, alone[i].tokens) << i;
}

TEST_F(EngineTest, TwinsThatCommitTheSameChunksDoNotDisturbEachOther) {
  const auto request = Request(RandomTokens(900, 30), 60, 0.1f);
  const Answer alone = Run(request);
  std::vector<std::shared_ptr<EventStream>> twins;
  for (int i = 0; i < 3; ++i) twins.push_back(*engine_->Submit(request));
  for (auto& twin : twins) EXPECT_EQ(Collect(twin.get()).tokens, alone.tokens);
}

TEST_F(EngineTest, CancellationKeepsWhatIsComplete) {
  const auto prompt = RandomTokens(640, 31);
  auto events = *engine_->Submit(InSession(Request(prompt, 1000), "doc"));
  const Answer cut = Collect(events.get(), [&](size_t tokens) {
    if (tokens == 5) events->Cancel(absl::CancelledError("enough"));
  });
  EXPECT_EQ(cut.status.code(), absl::StatusCode::kCancelled);
  EXPECT_LT(cut.tokens.size(), 1000u);
  const auto kept = store_->GetSession("doc", model_.fingerprint);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->size(), prompt.size() + cut.tokens.size());
}

// The step that is under way is computed to its end; after it at most the one that fills a chunk.
TEST_F(EngineTest, ACancellationInTheMiddleOfAStepEndsAfterIt) {
  Start(true, /*slots=*/36);  // blocks are fetched in the middle of steps
  const auto prompt = RandomTokens(1220, 31);
  std::shared_ptr<EventStream> events;
  std::atomic<bool> answering{false};
  std::atomic<uint64_t> posts_before{0};
  store_->BeforeFetch([&](absl::Span<const BlockHeads> blocks) {
    // A single block is the sealer's question.
    if (!answering || blocks.size() < 2 || posts_before > 0) return;
    posts_before = posts_->load();
    events->Cancel(absl::CancelledError("enough"));
  });
  events = *engine_->Submit(InSession(Request(prompt, 500), "doc"));
  const Answer cut = Collect(events.get(), [&](size_t) { answering = true; });
  EXPECT_EQ(cut.status.code(), absl::StatusCode::kCancelled) << cut.status;
  EXPECT_LT(posts_->load() - posts_before, 2 * model_.geometry.layers);
  EXPECT_EQ(store_->GetStats()->slots_held, 0u);
  const auto kept = store_->GetSession("doc", model_.fingerprint);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->size(), prompt.size() + cut.tokens.size());
}

TEST_F(EngineTest, StopEndsWithUnavailableAndSaves) {
  const auto prompt = RandomTokens(1000, 32);
  const Answer cut = Run(InSession(Request(prompt, 900), "doc"), [&](size_t tokens) {
    if (tokens == 5) engine_->Stop();
  });
  EXPECT_EQ(cut.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Run(Request(prompt, 1)).status.code(), absl::StatusCode::kUnavailable);
  EXPECT_GE(store_->GetSession("doc", model_.fingerprint)->size(), 960u);
}

TEST_F(EngineTest, PrefillOnly) {
  const auto prompt = RandomTokens(200, 33);
  const Answer prefill = Run(InSession(Request(prompt, 0), "doc"));
  ASSERT_TRUE(prefill.status.ok()) << prefill.status;
  EXPECT_EQ(prefill.reason, FinishReason::kPrefillOnly);
  EXPECT_TRUE(prefill.tokens.empty());
  EXPECT_EQ(Run(InSession(Request(prompt, 1), "doc")).started.reused_tokens, 192u);
  EXPECT_TRUE(Run(InSession(Request(prompt, 0), "doc")).status.ok());
  EXPECT_TRUE(Run(Request({5}, 0)).status.ok()) << "not one chunk: nothing to compute";
}

TEST_F(EngineTest, StopStringEndsTheText) {
  const auto prompt = RandomTokens(100, 34);
  const Answer whole = Run(Request(prompt, 40));
  ASSERT_GT(whole.text.size(), 8u);
  const std::string stop = whole.text.substr(whole.text.size() / 2, 3);
  auto request = Request(prompt, 40);
  request.stop = {stop};
  const Answer cut = Run(request);
  EXPECT_EQ(cut.reason, FinishReason::kStop);
  EXPECT_EQ(cut.text, whole.text.substr(0, whole.text.find(stop)));
}

TEST_F(EngineTest, ContextEndsTheAnswer) {
  const Answer answer = Run(Request(RandomTokens(2000, 35), 500));
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.tokens.size(), 48u);
  EXPECT_EQ(answer.reason, FinishReason::kLength);
}

TEST_F(EngineTest, BadRequests) {
  const auto code = [&](EngineRequest request) { return Run(std::move(request)).status.code(); };
  EXPECT_EQ(code(Request({}, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Request({4000000000u}, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Request(RandomTokens(2048, 1), 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(InSession(Request({5}, 1), "../x")), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(InSession(Request({5}, 1), "nobody", true)), absl::StatusCode::kNotFound);
  auto stops = Request({5}, 1);
  stops.stop.assign(17, "x");
  EXPECT_EQ(code(stops), absl::StatusCode::kInvalidArgument);
  auto hot = Request({5}, 1);
  hot.sampling.temperature = -1;
  EXPECT_EQ(code(hot), absl::StatusCode::kInvalidArgument);
}

TEST_F(EngineTest, SecondWriterIsRefused) {
  // Far longer than the second request takes to be refused, however late this thread gets to ask.
  auto events = *engine_->Submit(InSession(Request(RandomTokens(300, 36), 3000), "shared"));
  absl::Status inner;
  const Answer outer = Collect(events.get(), [&](size_t tokens) {
    if (tokens != 1) return;
    inner = Run(InSession(Request(RandomTokens(300, 37), 1), "shared")).status;
    events->Cancel(absl::CancelledError("enough"));
  });
  EXPECT_EQ(outer.status.code(), absl::StatusCode::kCancelled) << outer.status;
  EXPECT_EQ(inner.code(), absl::StatusCode::kFailedPrecondition) << inner;
}

TEST_F(EngineTest, AdmissionIsBounded) {
  EngineOptions options = Routed();
  options.max_sequences = 1;
  options.max_waiting = 1;
  Start(true, 0, options);
  std::vector<std::shared_ptr<EventStream>> streams;
  for (int i = 0; i < 2; ++i) streams.push_back(*engine_->Submit(Request(RandomTokens(200, 38), 1000)));
  EXPECT_EQ(engine_->Submit(Request({5}, 1)).status().code(), absl::StatusCode::kResourceExhausted);
  streams[0]->Cancel(absl::CancelledError("enough"));
  EXPECT_FALSE(Collect(streams[0].get()).status.ok());
  EXPECT_TRUE(Collect(streams[1].get()).status.ok());
}

TEST_F(EngineTest, LogitsThatAreNotNumbersEndTheRequestClearly) {
  std::vector<float> norm(weights_.config.hidden, 1.0f);
  norm[3] = NAN;
  weights_.output_norm.data = reinterpret_cast<const uint8_t*>(norm.data());
  Start(false);
  const Answer answer = Run(Request(RandomTokens(100, 40), 4));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kInternal) << answer.status;
  EXPECT_TRUE(absl::StrContains(answer.status.message(), "logit of token 0 is nan")) << answer.status;
  EXPECT_TRUE(answer.tokens.empty());
}

}  // namespace
}  // namespace hga
