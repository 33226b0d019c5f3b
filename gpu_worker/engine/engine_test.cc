// The engine on a tiny random model, without processes: what must not change a token does not.
#include "gpu_worker/engine/engine.h"

#include <atomic>
#include <cmath>
#include <random>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/temporary_folder.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"
#include "kv_store/client/memory_kv_client.h"
#include "router/client/local_route_client.h"

namespace hga {
namespace {

const LoadedModel& TinyModel() {
  static const LoadedModel* const model = [] {
    const TemporaryFolder folder;
    const std::string path = folder.File("tiny.gguf");
    HGA_CHECK(WriteTinyGguf(path, TinyModelOptions()).ok());
    auto loaded = LoadModel(path);
    HGA_CHECK(loaded.ok());
    return loaded->release();  // the mapping outlives the file
  }();
  return *model;
}

EngineModel Describe() {
  const LoadedModel& model = TinyModel();
  EngineModel out;
  out.geometry = model.weights.config.Geometry();
  out.fingerprint = model.fingerprint;
  out.vocab_size = model.weights.config.vocab_size;
  out.context_tokens = model.weights.config.context_tokens;
  out.end_tokens = {model.tokenizer->eos()};
  out.token_bytes = [&model](uint32_t id) { return model.tokenizer->TokenBytes(id); };
  return out;
}

std::vector<uint32_t> RandomTokens(uint32_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> tokens;
  for (uint32_t i = 0; i < count; ++i) tokens.push_back(3 + random() % 250);
  return tokens;
}

// A router that can be made to die, between layers.
class MortalRouter : public LocalRouteClient {
 public:
  MortalRouter(const KvGeometry& g, std::shared_ptr<std::atomic<int64_t>> exchanges_left,
               std::shared_ptr<std::atomic<uint64_t>> posts)
      : LocalRouteClient(g, *FindSummaryMethod("sketch")), left_(exchanges_left), posts_(posts) {}
  absl::Status Post(const RouteRequest& request) override {
    ++*posts_;
    if (*left_ <= 0) return absl::UnavailableError("the router died");
    --*left_;
    return LocalRouteClient::Post(request);
  }
  bool connected() const override { return *left_ > 0; }

 private:
  const std::shared_ptr<std::atomic<int64_t>> left_;
  const std::shared_ptr<std::atomic<uint64_t>> posts_;
};

double CounterValue(const prometheus::Registry& registry, const std::string& name, const std::string& label_value) {
  for (const prometheus::MetricFamily& family : registry.Collect()) {
    if (family.name != name) continue;
    for (const prometheus::ClientMetric& metric : family.metric) {
      for (const auto& label : metric.label) {
        if (label.value == label_value) return metric.counter.value;
      }
    }
  }
  ADD_FAILURE() << "no " << name;
  return 0;
}

struct Answer {
  absl::Status status;
  std::vector<uint32_t> tokens;
  std::string text;
  RequestStats started, stats;
  FinishReason reason = FinishReason::kStop;
};

class EngineTest : public testing::Test {
 protected:
  EngineTest() { Start(true); }

  // Prompts are routed from the first position on where there is something to route.
  static EngineOptions Routed() {
    EngineOptions options;
    options.dense_prefill_tokens = 0;
    return options;
  }

  void Start(bool with_router, uint32_t slots = 0, EngineOptions options = Routed()) {
    engine_.reset();
    link_.reset();
    model_ = Describe();
    store_ = std::make_unique<MemoryKvClient>(model_.geometry, slots);
    backend_ = *CreateBackend("cpu", weights_, model_.geometry, BackendOptions());
    RouterLink::Factory factory;
    if (with_router) {
      factory = [this]() -> absl::StatusOr<std::unique_ptr<RouteClient>> {
        if (*exchanges_left_ <= 0) return absl::UnavailableError("no router");
        return std::make_unique<MortalRouter>(model_.geometry, exchanges_left_, posts_);
      };
    }
    link_ = std::make_unique<RouterLink>(factory, absl::Milliseconds(5));
    registry_ = std::make_shared<prometheus::Registry>();
    engine_ = *Engine::Start(model_, options, backend_.get(), store_.get(), link_.get(), registry_);
  }

  EngineRequest Request(std::vector<uint32_t> tokens, uint32_t max_tokens, float fraction = 1.0f) {
    EngineRequest request;
    request.tokens = std::move(tokens);
    request.max_tokens = max_tokens;
    request.ignore_eos = true;
    request.budget.fraction = fraction;
    request.budget.min_tokens = 16;
    return request;
  }
  EngineRequest Dense(EngineRequest request) {
    request.routed = false;
    return request;
  }
  EngineRequest InSession(EngineRequest request, const std::string& name, bool append = false) {
    request.session = name;
    request.append = append;
    return request;
  }

  static Answer Collect(EventStream* events, const std::function<void(size_t)>& on_token = nullptr) {
    Answer answer;
    for (;;) {
      const auto event = events->Next(absl::Seconds(60));
      if (!event.has_value()) {
        answer.status = absl::DeadlineExceededError("no event");
        return answer;
      }
      switch (event->kind) {
        case EngineEvent::Kind::kStarted: answer.started = event->stats; break;
        case EngineEvent::Kind::kProgress: break;
        case EngineEvent::Kind::kToken:
          answer.tokens.push_back(event->token);
          answer.text += event->text;
          if (on_token) on_token(answer.tokens.size());
          break;
        case EngineEvent::Kind::kFinished:
          answer.stats = event->stats;
          answer.reason = event->reason;
          return answer;
        case EngineEvent::Kind::kFailed: answer.status = event->status; return answer;
      }
    }
  }
  Answer Run(EngineRequest request, const std::function<void(size_t)>& on_token = nullptr) {
    auto events = engine_->Submit(std::move(request));
    if (events.ok()) return Collect(events->get(), on_token);
    Answer answer;
    answer.status = events.status();
    return answer;
  }

  std::shared_ptr<std::atomic<int64_t>> exchanges_left_ = std::make_shared<std::atomic<int64_t>>(INT64_MAX);
  std::shared_ptr<std::atomic<uint64_t>> posts_ = std::make_shared<std::atomic<uint64_t>>(0);
  EngineModel model_;
  ModelWeights weights_ = TinyModel().weights;
  std::unique_ptr<MemoryKvClient> store_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<RouterLink> link_;
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<prometheus::Registry> registry_;
};

TEST_F(EngineTest, FullBudgetEqualsDense) {
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

TEST_F(EngineTest, RoutedRunsRepeatAndAttendLess) {
  const auto prompt = RandomTokens(900, 2);
  const Answer first = Run(Request(prompt, 60, 0.05f));
  const Answer second = Run(Request(prompt, 60, 0.05f));
  ASSERT_TRUE(first.status.ok()) << first.status;
  EXPECT_EQ(first.tokens, second.tokens);
  EXPECT_LT(first.stats.attended_fraction(true), 0.7);
  EXPECT_LT(first.stats.attended_fraction(false), 0.9);
}

TEST_F(EngineTest, AResidualStandsForWhatIsNotRead) {
  const auto prompt = RandomTokens(900, 2);
  const auto with = [](EngineRequest request) {
    request.budget.residual = true;
    return request;
  };
  const Answer whole = Run(with(Request(prompt, 60)));
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  EXPECT_EQ(whole.tokens, Run(Request(prompt, 60)).tokens);  // there is nothing else to read
  // The tiny model's likeliest token is the same for any attention; what is sampled is not.
  EngineRequest request = Request(prompt, 200, 0.05f);
  request.sampling.temperature = 50;
  const Answer first = Run(with(request));
  EXPECT_EQ(first.tokens, Run(with(request)).tokens);
  EXPECT_NE(first.tokens, Run(request).tokens);
}

TEST_F(EngineTest, PromptsAreAttendedDenselyUpToABound) {
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

TEST_F(EngineTest, OneExchangePerLayerAndNoStoreCallOnTheHeldPath) {
  const Answer answer = Run(Request(RandomTokens(900, 3), 80));
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.stats.decode_steps, 79u);
  EXPECT_EQ(answer.stats.ring_exchanges, answer.stats.decode_steps * model_.geometry.layers);
  EXPECT_EQ(answer.stats.kv_rpcs_decode, 0u);
  EXPECT_GT(answer.stats.tiers.held, 0u);
}

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

TEST_F(EngineTest, DroppingRamBetweenTurnsChangesNoToken) {
  const auto first = InSession(Request(RandomTokens(900, 6), 10, 0.1f), "doc");
  const auto second = InSession(Request(RandomTokens(20, 7), 40, 0.1f), "doc", true);
  ASSERT_TRUE(Run(first).status.ok());
  const Answer warm = Run(second);
  ASSERT_TRUE(warm.status.ok()) << warm.status;
  Start(true);
  ASSERT_TRUE(Run(first).status.ok());
  store_->DropRam();
  const Answer cold = Run(second);
  EXPECT_EQ(cold.tokens, warm.tokens);
  EXPECT_GT(cold.stats.tiers.disk, 0u);
  EXPECT_EQ(warm.stats.tiers.disk, 0u);
}

TEST_F(EngineTest, TightStoreChangesNoToken) {
  const auto request = Request(RandomTokens(1200, 8), 40, 0.1f);
  const Answer roomy = Run(request);
  // 19 chunks of 2 layers do not fit at once.
  Start(true, 36);
  const Answer tight = Run(request);
  ASSERT_TRUE(tight.status.ok()) << tight.status;
  EXPECT_EQ(tight.tokens, roomy.tokens);
  EXPECT_GT(tight.stats.tiers.ram + tight.stats.tiers.disk, 0u);
}

// A hint asks the router and the store ahead of time and changes nothing else: every token, and what is attended.
TEST_F(EngineTest, EarlySelectionsChangeNoToken) {
  const auto first = InSession(Request(RandomTokens(2000, 6), 10, 0.01f), "doc");
  auto second = InSession(Request(RandomTokens(20, 7), 60, 0.01f), "doc", true);
  second.sampling.temperature = 1;
  std::vector<Answer> answers;
  for (const uint32_t slots : {0u, 56u}) {
    for (const bool early : {false, true}) {
      EngineOptions options = Routed();
      options.early_selection = early;
      Start(true, slots, options);
      ASSERT_TRUE(Run(first).status.ok());
      store_->DropRam();
      answers.push_back(Run(second));
      ASSERT_TRUE(answers.back().status.ok()) << answers.back().status;
      const double keys = CounterValue(*registry_, "hga_worker_early_keys_total", "yes");
      const double blocks = CounterValue(*registry_, "hga_worker_early_blocks_total", "yes");
      EXPECT_EQ(keys > 0, early);
      EXPECT_EQ(blocks > 0, early);
    }
  }
  for (const Answer& answer : answers) {
    EXPECT_EQ(answer.tokens, answers[0].tokens);
    EXPECT_EQ(answer.stats.attended_keys[1], answers[0].stats.attended_keys[1]);
    EXPECT_EQ(answer.stats.ring_exchanges, answers[0].stats.ring_exchanges);
  }
}

// Where the arena is too small keys are copied, and where they are found again blocks are not read: nothing else changes.
TEST_F(EngineTest, TheKeyCacheChangesNoToken) {
  const auto prompt = RandomTokens(1850, 6);
  const auto sampled = [](EngineRequest request) {
    request.sampling.temperature = 1;  // the tiny model's likeliest token is the same for any attention
    return request;
  };
  auto shorter = std::vector<uint32_t>(prompt.begin(), prompt.begin() + 1300);  // goes on otherwise, with other keys
  for (const uint32_t token : RandomTokens(300, 9)) shorter.push_back(token);
  const auto run_all = [&] {
    std::vector<std::vector<uint32_t>> answers;
    const auto run = [&](EngineRequest request) {
      const Answer answer = Run(sampled(std::move(request)));
      EXPECT_TRUE(answer.status.ok()) << answer.status;
      answers.push_back(answer.tokens);
    };
    run(InSession(Request(prompt, 30, 0.01f), "doc"));
    EXPECT_TRUE(store_->ForkSession("doc", "fork").ok());
    run(InSession(Request(RandomTokens(20, 7), 40, 0.01f), "doc", true));
    run(InSession(Request(RandomTokens(30, 8), 40, 0.01f), "fork", true));
    run(Request(shorter, 40, 0.01f));
    store_->DropRam();
    run(InSession(Request(RandomTokens(20, 10), 40, 0.01f), "doc", true));
    return answers;
  };
  EngineOptions options = Routed();
  options.key_cache_bytes = 0;
  Start(true, 0, options);
  const auto expected = run_all();
  const uint64_t whole = EngineOptions().key_cache_bytes;
  for (const auto& [slots, bytes, early] : std::vector<std::tuple<uint32_t, uint64_t, bool>>{
           {0, whole, false}, {54, 0, false}, {54, 20000, false}, {54, whole, false}, {54, whole, true}}) {
    options.key_cache_bytes = bytes;
    options.early_selection = early;
    Start(true, slots, options);
    EXPECT_EQ(run_all(), expected) << slots << " slots, " << bytes << " bytes, early " << early;
    EXPECT_EQ(CounterValue(*registry_, "hga_worker_kv_bytes_total", "keys") > 0, slots > 0 && bytes > 0);
  }
}

TEST_F(EngineTest, TheKeyCacheSparesReads) {
  uint64_t read[2];
  for (const bool cached : {false, true}) {
    EngineOptions options = Routed();
    if (!cached) options.key_cache_bytes = 0;
    Start(true, 54, options);
    const Answer answer = Run(Request(RandomTokens(1850, 6), 60, 0.02f));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    read[cached] = answer.stats.tiers.ram + answer.stats.tiers.disk;
  }
  EXPECT_LT(read[1], read[0]);
}

TEST_F(EngineTest, RouterThatDiesOverAHintLeavesDenseAttention) {
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

TEST_F(EngineTest, HopelesslySmallStoreSaysSo) {
  Start(true, 6);
  const Answer answer = Run(Request(RandomTokens(1200, 9), 4));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kResourceExhausted) << answer.status;
}

TEST_F(EngineTest, LostChunkIsComputedAgain) {
  const auto request = InSession(Request(RandomTokens(900, 10), 30), "doc");
  const Answer before = Run(request);
  const auto hashes = ChunkHashes(model_.fingerprint, model_.geometry, request.tokens);
  for (uint32_t chunk : {5u, 13u}) {  // reached by routing; in the window that is fetched at the start
    store_->DamageChunk(hashes[chunk]);
    const Answer after = Run(request);
    ASSERT_TRUE(after.status.ok()) << after.status;
    EXPECT_EQ(after.tokens, before.tokens) << chunk;
    EXPECT_GT(after.stats.tiers.recomputed, 0u) << chunk;
  }
}

TEST_F(EngineTest, DyingRouterLeavesDenseAttention) {
  const auto prompt = RandomTokens(900, 11);
  const Answer whole = Run(Dense(Request(prompt, 60)));
  *exchanges_left_ = 31;  // dies in the middle of a step
  const Answer cut = Run(Request(prompt, 60));
  ASSERT_TRUE(cut.status.ok()) << cut.status;
  EXPECT_EQ(cut.tokens, whole.tokens);
  EXPECT_GT(cut.stats.dense_fallback_steps, 0u);
  EXPECT_EQ(cut.stats.warnings.size(), 1u);
}

TEST_F(EngineTest, ReturningRouterIsUsedAgain) {
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

TEST_F(EngineTest, WithoutRouterTheDenseBoundHolds) {
  EngineOptions options = Routed();
  options.max_dense_tokens = 512;
  Start(false, 0, options);
  EXPECT_TRUE(Run(Request(RandomTokens(400, 13), 10)).status.ok());
  const Answer answer = Run(Request(RandomTokens(900, 13), 10));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kUnavailable) << answer.status;
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

TEST_F(EngineTest, FailedCommitEndsTheRequestClearly) {
  const Answer answer = Run(Request(RandomTokens(300, 39), 400), [&](size_t tokens) {
    if (tokens == 5) store_->SetConnected(false);
  });
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kUnavailable) << answer.status;
  store_->SetConnected(true);
  EXPECT_TRUE(Run(Request(RandomTokens(300, 39), 4)).status.ok());
}

}  // namespace
}  // namespace hga
