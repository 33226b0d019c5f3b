// What a step does when the router, the store or the backend fails it: the right rows, or none and a reason.
#include "gpu_worker/engine/step_runner.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/status.h"
#include "gpu_worker/engine/testing_engine.h"
#include "router/client/local_route_client.h"

namespace hga {
namespace {

constexpr uint32_t kTokens = 700, kLastChunk = 10, kRoutedEnd = 9;  // of the last token
constexpr float kFew = 0.1f, kAll = 1;                              // budgets

// What becomes of a router's answers.
struct Fault {
  const char* name = "None";
  std::function<void(RouteResponse*)> tamper;
  absl::Status late;
  bool decoded = true;  // as the daemons' answers are; else handed on as it is
  uint32_t first_layer = 0;
};

class FaultyRouter : public LocalRouteClient {
 public:
  // The fault is read at each answer.
  FaultyRouter(const KvGeometry& g, const SummaryMethod* method, const Fault* fault)
      : LocalRouteClient(g, method), g_(g), fault_(fault) {}

  absl::Status Post(const RouteRequest& request) override {
    request_ = &request;
    return LocalRouteClient::Post(request);
  }
  absl::Status Wait(RouteResponse* response) override {
    RouteResponse answer;
    HGA_RETURN_IF_ERROR(LocalRouteClient::Wait(&answer));
    const bool faulty = answer.layer >= fault_->first_layer;
    if (faulty) HGA_RETURN_IF_ERROR(fault_->late);
    if (faulty && fault_->tamper) fault_->tamper(&answer);
    if (faulty && !fault_->decoded) {
      *response = std::move(answer);
      return absl::OkStatus();
    }
    std::vector<uint64_t> words((RouteResponseBytes(answer) + 7) / 8);
    const absl::Span<uint8_t> bytes(reinterpret_cast<uint8_t*>(words.data()), words.size() * 8);
    HGA_ASSIGN_OR_RETURN(const size_t size, EncodeRouteResponse(g_, answer, bytes));
    HGA_ASSIGN_OR_RETURN(*response, DecodeRouteResponse(g_, *request_, bytes.first(size)));
    return absl::OkStatus();
  }

 private:
  const KvGeometry g_;
  const Fault* const fault_;
  const RouteRequest* request_ = nullptr;
};

// Leaves out the last block of an answer.
class ForgetfulStore : public MemoryKvClient {
 public:
  using MemoryKvClient::MemoryKvClient;
  absl::StatusOr<std::vector<FetchedBlock>> FetchHeads(absl::Span<const BlockHeads> wanted) override {
    auto fetched = MemoryKvClient::FetchHeads(wanted);
    if (forgets && fetched.ok()) fetched->pop_back();
    return fetched;
  }
  bool forgets = false;
};

// Fails one call of Attend.
class FailingBackend : public Backend {
 public:
  explicit FailingBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}
  std::string name() const override { return backend_->name(); }
  uint32_t max_rows() const override { return backend_->max_rows(); }
  uint32_t vocab_size() const override { return backend_->vocab_size(); }
  absl::Status Begin(absl::Span<const BatchRow> rows) override { return backend_->Begin(rows); }
  absl::Status PreAttention(uint32_t layer, absl::Span<const KvRow> rows) override {
    return backend_->PreAttention(layer, rows);
  }
  const bf16* queries() override { return backend_->queries(); }
  absl::Status Attend(const AttendPlan& plan) override {
    return calls_left-- == 0 ? absl::InternalError("the device fell off") : backend_->Attend(plan);
  }
  const bf16* GuessQueries(uint32_t layer) override { return backend_->GuessQueries(layer); }
  const float* LogSumExp() override { return backend_->LogSumExp(); }
  absl::Status AddResidual(const float* missed) override { return backend_->AddResidual(missed); }
  absl::Status PostAttention(uint32_t layer) override { return backend_->PostAttention(layer); }
  absl::Status Logits(std::vector<float>* logits) override { return backend_->Logits(logits); }

  int64_t calls_left = -1;  // negative: none fails

 private:
  const std::unique_ptr<Backend> backend_;
};

class StepRunnerTest : public testing::Test {
 protected:
  StepRunnerTest() { MakeRunner(/*early_selection=*/false); }

  void MakeRunner(bool early_selection) {
    StepRoom room;
    room.make = [this](uint64_t tick, uint32_t wanted, bool) {
      EXPECT_EQ(tick, runner_->tick());
      room_wanted_.push_back(wanted);
      return 0;
    };
    runner_ = std::make_unique<StepRunner>(&backend_, &store_, &link_, &metrics_, nullptr, shapes_, early_selection,
                                           /*keys=*/nullptr, std::move(room));
  }

  // A sequence of kTokens all but the last of which are computed, sealed, and known to the router.
  std::unique_ptr<Sequence> Prefilled(uint64_t id, float fraction) {
    auto request = std::make_shared<EngineRequest>();
    request->budget.fraction = fraction;
    request->budget.min_tokens = 16;
    request->budget.dense_decode_tokens = 0;
    auto s = std::make_unique<Sequence>(id, g_.layers, request, std::make_shared<EventStream>());
    s->tokens = RandomTokens(kTokens, static_cast<uint32_t>(id));
    s->prompt_tokens = kTokens - 1;
    s->fallback = true;
    HGA_CHECK(link_.current().client->OpenSequence(id, {}).ok());
    while (s->computed < s->prompt_tokens) {
      s->blocks.PutChunk(s->computed / g_.chunk_tokens, *store_.Reserve(g_.layers), 0);
      StepPart part;
      part.sequence = s.get();
      part.rows = std::min(g_.chunk_tokens, s->prompt_tokens - s->computed);
      std::vector<StepPart> parts = {part};
      HGA_CHECK(runner_->Run(&parts, &logits_).ok() && parts[0].status.ok());
      s->computed += part.rows;
      if (part.rows == g_.chunk_tokens) Seal(s.get());
    }
    s->fallback = false;
    s->stats.completion_tokens = 1;  // from here on it decodes
    return s;
  }

  void Seal(Sequence* s) {
    CommitChunk commit;
    const auto chunk = static_cast<uint32_t>(s->hashes.size());
    const auto begin = s->tokens.begin() + chunk * g_.chunk_tokens;
    commit.token_ids.assign(begin, begin + g_.chunk_tokens);
    commit.parent = s->hashes.empty() ? SeedHash(model_.fingerprint, g_) : s->hashes.back();
    commit.hash = NextChunkHash(commit.parent, commit.token_ids);
    commit.blocks = s->blocks.Lend(chunk);
    commit.summary.resize(model_.method->chunk_bytes(g_));
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      uint8_t* const out = reinterpret_cast<uint8_t*>(&commit.summary[layer * model_.method->layer_bytes(g_)]);
      SummarizeBlock(g_, *model_.method, layer, commit.blocks[layer].data(), out);
    }
    s->hashes.push_back(commit.hash);
    HGA_CHECK(link_.current().client->AppendSummary(s->id, chunk, commit.hash, commit.summary).ok());
    s->blocks.PutChunk(chunk, *store_.Commit(session_, std::move(commit)), 0);
  }

  static void Release(Sequence* s, uint32_t chunk) {
    for (uint32_t layer = 0; layer < 2; ++layer) s->blocks.Release(chunk, layer);
  }

  // Computes the last token of each, as often as it is called; the logits are left in `logits_`.
  std::vector<StepPart> Decode(const std::vector<Sequence*>& sequences) {
    std::vector<StepPart> parts;
    for (Sequence* s : sequences) {
      StepPart part;
      part.sequence = s;
      part.rows = 1;
      part.want_logits = true;
      parts.push_back(part);
    }
    room_wanted_.clear();
    status_ = runner_->Run(&parts, &logits_);
    if (status_.ok()) status_ = runner_->TakeAllLogits(&logits_);
    return parts;
  }
  std::vector<float> LogitsOf(const StepPart& part) const {
    const auto begin = logits_.all.begin() + size_t{part.logits_row} * model_.vocab_size;
    return {begin, begin + model_.vocab_size};
  }
  std::vector<float> DecodeOne(Sequence* s) {
    const StepPart part = Decode({s})[0];
    EXPECT_TRUE(status_.ok() && part.status.ok()) << status_ << part.status;
    return LogitsOf(part);
  }
  std::vector<float> DecodeDensely(Sequence* s) {
    s->fallback = true;
    auto logits = DecodeOne(s);
    s->fallback = false;
    return logits;
  }

  const EngineModel model_ = DescribeTinyModel();
  const KvGeometry g_ = model_.geometry;
  const AttendShapes shapes_ = {{g_, /*sink_tokens=*/4, /*window_chunks=*/4, /*block_tokens=*/32}, {g_, 4, 1}};
  Fault fault_;
  ModelWeights weights_ = TinyModel().weights;
  FailingBackend backend_{*CreateBackend("cpu", weights_, g_, BackendOptions())};
  ForgetfulStore store_{g_, /*slot_limit=*/60};
  const OpenedSession session_ = *store_.OpenSession("", model_.fingerprint, {});
  RouterLink link_{[this] { return std::make_unique<FaultyRouter>(g_, model_.method, &fault_); }, absl::Hours(1)};
  EngineMetrics metrics_{nullptr, "tiny", g_.block_bytes()};
  std::unique_ptr<StepRunner> runner_;
  std::vector<uint32_t> room_wanted_;
  StepLogits logits_;
  absl::Status status_;
};

// --- The router ---

class RouterFaultTest : public StepRunnerTest, public testing::WithParamInterface<Fault> {};

TEST_P(RouterFaultTest, IsFollowedByDenseAttention) {
  const auto s = Prefilled(1, kFew);
  const auto dense = DecodeDensely(s.get());
  const auto routed = DecodeOne(s.get());
  EXPECT_NE(routed, dense);
  EXPECT_FALSE(s->fallback);

  fault_ = GetParam();
  EXPECT_EQ(DecodeOne(s.get()), dense);
  EXPECT_TRUE(s->fallback);
  EXPECT_EQ(link_.current().client, nullptr);
}

// What an earlier layer has selected stays selected.
TEST_P(RouterFaultTest, InALaterLayerEndsTheStepWell) {
  const auto s = Prefilled(1, kFew);
  const auto dense = DecodeDensely(s.get());
  fault_ = GetParam();
  fault_.first_layer = 1;
  const StepPart part = Decode({s.get()})[0];
  EXPECT_TRUE(status_.ok() && part.status.ok()) << status_ << part.status;
  EXPECT_LT(part.attended_keys, part.dense_keys);
  EXPECT_NE(LogitsOf(part), dense);
}

INSTANTIATE_TEST_SUITE_P(
    All, RouterFaultTest,
    testing::Values(
        Fault{"Late", nullptr, absl::DeadlineExceededError("no answer in time")},
        Fault{"AnotherStep", [](RouteResponse* r) { --r->step; }},
        Fault{"AnotherLayer", [](RouteResponse* r) { r->layer ^= 1; }},
        Fault{"NoBlock", [](RouteResponse* r) { r->blocks.clear(), r->missed.clear(); }},
        Fault{"OneBlockMore", [](RouteResponse* r) { r->blocks.push_back(r->blocks[0]), r->missed.emplace_back(); }},
        Fault{"OneHeadLess", [](RouteResponse* r) { r->blocks[0].pop_back(); }},
        Fault{"AKeyOfTheSink", [](RouteResponse* r) { r->blocks[0][0] = {{0, 0, 1}}; }},
        Fault{"AKeyOfTheWindow", [](RouteResponse* r) { r->blocks[0][1] = {{kRoutedEnd, 0, 1}}; }},
        Fault{"AKeyAfterTheQuery", [](RouteResponse* r) { r->blocks[0][1] = {{kLastChunk, 0, uint64_t{1} << 63}}; }},
        Fault{"AKeyTwice", [](RouteResponse* r) { r->blocks[0][0] = {{2, 0, 3}, {2, 0, 2}}; }},
        Fault{"NoBlockNotDecoded", [](RouteResponse* r) { r->blocks.clear(); }, absl::OkStatus(), false},
        Fault{"NoSumsNotDecoded", [](RouteResponse* r) { r->missed.clear(); }, absl::OkStatus(), false}),
    [](const auto& info) { return info.param.name; });

// --- The store ---

class StoreFaultTest : public StepRunnerTest {
 protected:
  // All that can be selected is.
  StoreFaultTest() : s_(Prefilled(1, kAll)) {}

  // Another user of the arena, who takes all that is free.
  void TakeTheRoom() {
    for (auto block = store_.Reserve(1); block.ok(); block = store_.Reserve(1)) {
      others_.push_back(std::move((*block)[0]));
    }
  }

  const std::unique_ptr<Sequence> s_;
  std::vector<HeldBlock> others_;
};

TEST_F(StoreFaultTest, EndsThePartThatAskedAndNoOther) {
  const auto other = Prefilled(2, kAll);
  auto parts = Decode({s_.get(), other.get()});
  const auto expected = LogitsOf(parts[1]);
  Release(s_.get(), 5);
  store_.FailNext(absl::UnavailableError("kv_store is away"));
  parts = Decode({s_.get(), other.get()});
  EXPECT_TRUE(status_.ok()) << status_;
  EXPECT_EQ(parts[0].status.code(), absl::StatusCode::kUnavailable) << parts[0].status;
  EXPECT_FALSE(parts[0].lost_chunk.has_value());
  EXPECT_FALSE(parts[0].no_room);
  EXPECT_TRUE(parts[1].status.ok()) << parts[1].status;
  EXPECT_EQ(LogitsOf(parts[1]), expected);
}

TEST_F(StoreFaultTest, TheFirstChunkThatIsLostIsNamed) {
  for (const uint32_t chunk : {7u, 2u, 5u}) Release(s_.get(), chunk);
  store_.DamageChunk(s_->hashes[7]);
  store_.DamageChunk(s_->hashes[2]);
  const StepPart part = Decode({s_.get()})[0];
  EXPECT_EQ(part.status.code(), absl::StatusCode::kDataLoss) << part.status;
  EXPECT_EQ(part.lost_chunk, 2u);
  EXPECT_FALSE(part.no_room);
}

TEST_F(StoreFaultTest, AnAnswerForAnotherNumberOfBlocksIsNotUsed) {
  const auto expected = DecodeOne(s_.get());
  Release(s_.get(), 5);
  store_.forgets = true;
  EXPECT_EQ(Decode({s_.get()})[0].status.code(), absl::StatusCode::kInternal);
  store_.forgets = false;
  EXPECT_EQ(DecodeOne(s_.get()), expected);
}

TEST_F(StoreFaultTest, RoomIsMadeAndAskedForAgain) {
  const auto expected = DecodeOne(s_.get());
  for (const uint32_t chunk : {2u, 5u}) Release(s_.get(), chunk);
  store_.FailNext(absl::ResourceExhaustedError("every slot is held"));
  EXPECT_EQ(DecodeOne(s_.get()), expected);
  EXPECT_EQ(room_wanted_, std::vector<uint32_t>{2});
}

TEST_F(StoreFaultTest, WithoutRoomTheRowsAreLeftForAnotherTime) {
  const auto expected = DecodeOne(s_.get());
  for (const uint32_t chunk : {2u, 5u}) Release(s_.get(), chunk);
  TakeTheRoom();
  const StepPart part = Decode({s_.get()})[0];
  EXPECT_EQ(part.status.code(), absl::StatusCode::kResourceExhausted) << part.status;
  EXPECT_TRUE(part.no_room);
  EXPECT_FALSE(part.lost_chunk.has_value());
  EXPECT_FALSE(room_wanted_.empty());
  others_.clear();
  EXPECT_EQ(DecodeOne(s_.get()), expected);
}

// --- The backend ---

class BackendFaultTest : public StepRunnerTest, public testing::WithParamInterface<bool> {};

// Nothing that the step had under way is in the next one's way.
TEST_P(BackendFaultTest, EndsTheStepAndNotTheNext) {
  const auto s = Prefilled(1, kFew);
  MakeRunner(/*early_selection=*/GetParam());
  const auto expected = DecodeOne(s.get());
  for (int64_t call = 0; call < 4; ++call) {  // two in each layer
    backend_.calls_left = call;
    Decode({s.get()});
    EXPECT_EQ(status_.code(), absl::StatusCode::kInternal) << status_ << " at " << call;
    EXPECT_EQ(DecodeOne(s.get()), expected) << call;
    EXPECT_FALSE(s->fallback) << call;
  }
}

INSTANTIATE_TEST_SUITE_P(All, BackendFaultTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "AskedEarly" : "AskedInTime"; });

}  // namespace
}  // namespace hga
