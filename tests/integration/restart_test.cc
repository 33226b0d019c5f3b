// Daemons die and come back: nothing wrong is served, and what was durable is there.
#include <algorithm>
#include <csignal>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/support/patience.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

uint64_t KvBytesPerToken(Stack* stack) {
  grpc::ClientContext context;
  gpu_worker::v1::GetModelResponse model;
  EXPECT_TRUE(stack->worker_stub()->GetModel(&context, {}, &model).ok());
  return model.kv_bytes_per_token();
}

// Whether the worker has the store's arena in its memory.
bool MapsArena(const Stack& stack) {
  std::ifstream maps(absl::StrCat("/proc/", stack.worker.pid(), "/maps"));
  const std::string arena = stack.folder() + "/arena";
  for (std::string line; std::getline(maps, line);) {
    if (line.find(arena) != std::string::npos) return true;
  }
  return false;
}

constexpr uint32_t kPrompt = 1500;
constexpr uint32_t kReusable = (kPrompt - 1) / 64 * 64;

TEST(RestartTest, WholeStackComesBackWithTheDocument) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = InSession(Routed(TokenRequest(kPrompt, 1, 32), 0.2f), "doc");
  const Answer before = stack.Generate(request);
  ASSERT_TRUE(before.status.ok()) << before.status;
  for (Process* daemon : {&stack.worker, &stack.router, &stack.kv_store}) {
    daemon->Signal(SIGTERM);
    const auto code = daemon->Wait();
    ASSERT_TRUE(code.ok()) << code.status();
    EXPECT_EQ(*code, 0);
  }
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const Answer after = stack.Generate(request);
  ASSERT_TRUE(after.status.ok()) << after.status;
  EXPECT_EQ(after.started.reused_tokens(), kReusable);
  EXPECT_GT(after.finished.tiers().disk(), 0u);
  EXPECT_EQ(after.finished.dense_fallback_steps(), 0u);
  EXPECT_EQ(after.tokens, before.tokens);

  grpc::ClientContext context;
  router::v1::GetStatsResponse stats;
  ASSERT_TRUE(stack.router_stub()->GetStats(&context, {}, &stats).ok());
  EXPECT_GE(stats.rebuilt_chunks(), kReusable / 64);
}

// K/V that has left the arena comes from the disk, or from RAM where it is packed: the same tokens, also when a restart
// has emptied the packed level and the disk has filled it again.
TEST(RestartTest, PackedRamChangesNoToken) {
  const auto request = InSession(Routed(TokenRequest(kPrompt, 3, 32), 0.2f), "doc");
  std::vector<Answer> answers;
  for (const bool packed : {false, true}) {
    StackOptions options;
    options.worker_flags = {"--kv_dtype=fp8_e4m3"};
    options.kv_store_flags = {"--kv_dtype=fp8_e4m3"};
    if (packed) options.kv_store_flags.push_back("--packed_ram_bytes=256MiB");
    Stack stack(options);
    ASSERT_EQ(stack.Start(), absl::OkStatus());
    answers.push_back(stack.Generate(request));
    ASSERT_EQ(stack.FlushToDisk(), absl::OkStatus());
    answers.push_back(stack.Generate(request));
    EXPECT_EQ(answers.back().finished.tiers().disk() == 0, packed);
    ASSERT_EQ(stack.KillAndRestartKvStore(), absl::OkStatus());
    answers.push_back(stack.Generate(request));
    EXPECT_GT(answers.back().finished.tiers().disk(), 0u);
    ASSERT_EQ(stack.FlushToDisk(), absl::OkStatus());
    answers.push_back(stack.Generate(request));
    EXPECT_EQ(answers.back().finished.tiers().disk() == 0, packed);
  }
  for (const Answer& answer : answers) {
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.tokens, answers[0].tokens);
  }
}

// A worker on a CPU holds int8 in the arena: half of the bytes, and the same tokens from RAM, from disk and after the
// store was killed.
TEST(RestartTest, Int8InTheArenaChangesNoToken) {
  const auto request = InSession(Routed(TokenRequest(kPrompt, 3, 32), 0.2f), "doc");
  StackOptions options;
  uint64_t bf16_bytes = 0;
  {
    Stack stack(options);
    ASSERT_EQ(stack.Start(), absl::OkStatus());
    bf16_bytes = KvBytesPerToken(&stack);
  }
  options.worker_flags = {"--kv_dtype=int8"};
  Stack stack(options);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  EXPECT_LT(KvBytesPerToken(&stack), bf16_bytes * 0.6);
  std::vector<Answer> answers = {stack.Generate(request), stack.Generate(request)};
  ASSERT_EQ(stack.FlushToDisk(), absl::OkStatus());
  answers.push_back(stack.Generate(request));
  EXPECT_GT(answers.back().finished.tiers().disk(), 0u);
  ASSERT_EQ(stack.KillAndRestartKvStore(), absl::OkStatus());
  answers.push_back(stack.Generate(request));
  EXPECT_GT(answers.back().finished.tiers().disk(), 0u);
  for (const Answer& answer : answers) {
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.tokens, answers[0].tokens);
  }
}

TEST(RestartTest, PinsByRequestSurvive) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  auto request = InSession(TokenRequest(300, 4, 4), "prompt");
  request.set_pin(true);
  ASSERT_TRUE(stack.Generate(request).status.ok());
  ASSERT_TRUE(stack.Generate(InSession(TokenRequest(300, 5, 4), "other")).status.ok());
  request.clear_session();
  EXPECT_EQ(stack.Generate(request).status.code(), absl::StatusCode::kInvalidArgument);
  const auto pinned = [&] {
    std::vector<std::string> names;
    grpc::ClientContext context;
    gpu_worker::v1::ListSessionsResponse sessions;
    EXPECT_TRUE(stack.worker_stub()->ListSessions(&context, {}, &sessions).ok());
    for (const auto& session : sessions.sessions()) {
      if (session.pinned()) names.push_back(session.name());
    }
    return names;
  };
  EXPECT_EQ(pinned(), std::vector<std::string>{"prompt"});
  ASSERT_EQ(stack.FlushToDisk(), absl::OkStatus());
  ASSERT_EQ(stack.KillAndRestartKvStore(), absl::OkStatus());
  EXPECT_EQ(pinned(), std::vector<std::string>{"prompt"});
  gpu_worker::v1::PinSessionRequest unpin;
  unpin.set_name("prompt");
  grpc::ClientContext context;
  gpu_worker::v1::PinSessionResponse unpinned;
  ASSERT_TRUE(stack.worker_stub()->PinSession(&context, unpin, &unpinned).ok());
  EXPECT_TRUE(pinned().empty());
}

TEST(RestartTest, KvStoreKilledWithSigkillThenTheSameTokens) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = InSession(Routed(TokenRequest(kPrompt, 2, 32), 0.2f), "doc");
  const Answer before = stack.Generate(request);
  ASSERT_TRUE(before.status.ok()) << before.status;
  stack.kv_store.Signal(SIGKILL);
  ASSERT_TRUE(stack.kv_store.Wait().ok());
  // Without the store the answer is a clear error, not a hang and not a guess.
  const Answer away = stack.Generate(request);
  EXPECT_EQ(away.status.code(), absl::StatusCode::kUnavailable) << away.status;

  ASSERT_EQ(stack.RestartKvStore(), absl::OkStatus());
  const Answer after = stack.Generate(request);
  ASSERT_TRUE(after.status.ok()) << after.status;
  EXPECT_EQ(after.tokens, before.tokens);
}

TEST(RestartTest, WorkerKilledWhileGeneratingFreesItsSlots) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = InSession(Routed(TokenRequest(kPrompt, 3, 400), 0.2f), "doc");
  const Answer cut = stack.Generate(request, [&](size_t tokens) {
    if (tokens == 20) stack.worker.Signal(SIGKILL);
    return true;
  });
  EXPECT_FALSE(cut.status.ok());
  ASSERT_TRUE(stack.worker.Wait().ok());

  ASSERT_EQ(stack.WaitForNoHolds(), absl::OkStatus());

  ASSERT_EQ(stack.StartWorker(), absl::OkStatus());
  ASSERT_EQ(stack.WaitForWorker([](const auto& s) { return s.router_attached(); }), absl::OkStatus());
  auto again = request;
  again.set_max_tokens(32);
  const Answer answer = stack.Generate(again);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_GT(answer.started.reused_tokens(), 0u) << "the prefilled chunks were lost with the worker";
  ASSERT_GE(cut.tokens.size(), 20u);
  EXPECT_TRUE(std::equal(cut.tokens.begin(), cut.tokens.begin() + 20, answer.tokens.begin()));
}

TEST(RestartTest, ArenaSmallerThanTheDocument) {
  // 8 layers x 24 chunks need 192 slots of 8 KiB; the arena has fewer, so blocks go to disk and come back.
  StackOptions small;
  small.tiny_model_flags = {"--layers=8"};
  StackOptions large = small;
  small.arena_bytes = "1MiB";
  Stack tight(small), roomy(large);
  ASSERT_EQ(tight.Start(), absl::OkStatus());
  ASSERT_EQ(roomy.Start(), absl::OkStatus());
  const auto request = InSession(Routed(TokenRequest(kPrompt, 4, 64), 0.1f), "doc");
  const Answer spilled = tight.Generate(request);
  const Answer whole = roomy.Generate(request);
  ASSERT_TRUE(spilled.status.ok()) << spilled.status << tight.log("gpu_worker") << tight.log("kv_store");
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  EXPECT_EQ(spilled.tokens, whole.tokens);
  EXPECT_GT(spilled.finished.tiers().disk(), 0u);

  const Answer resumed = tight.Generate(request);
  ASSERT_TRUE(resumed.status.ok()) << resumed.status << tight.log("gpu_worker");
  EXPECT_EQ(resumed.started.reused_tokens(), kReusable);
  EXPECT_EQ(resumed.tokens, whole.tokens);
}

// An idle worker keeps copies of single keys in slots of the arena. Those go with the store that they belong to.
TEST(RestartTest, StoreKilledWhileItsSlotsHoldKeys) {
  StackOptions options;
  options.tiny_model_flags = {"--layers=8"};
  options.arena_bytes = "1MiB";
  options.worker_flags = {"--key_cache=64KiB"};  // has room for a few pages of 8 KiB
  Stack stack(options);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = InSession(Routed(TokenRequest(kPrompt, 4, 64), 0.05f), "doc");
  const Answer before = stack.Generate(request);
  ASSERT_TRUE(before.status.ok()) << before.status;
  EXPECT_GT(before.finished.tiers().keys(), 0u);
  ASSERT_TRUE(MapsArena(stack));
  // Blocks go, and what is left are those slots.
  ASSERT_EQ(stack.FlushToDisk(), absl::OkStatus());
  grpc::ClientContext context;
  kv_store::v1::GetStatsResponse stats;
  ASSERT_TRUE(stack.kv_store_stub()->GetStats(&context, {}, &stats).ok());
  ASSERT_LT(stats.slots_free(), stats.slots_total());
  stack.kv_store.Signal(SIGKILL);
  ASSERT_TRUE(stack.kv_store.Wait().ok());
  for (Patience patience; MapsArena(stack) && patience.Lasts();) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_FALSE(MapsArena(stack)) << "the memory of a store that is gone stays";

  ASSERT_EQ(stack.RestartKvStore(), absl::OkStatus());
  const Answer after = stack.Generate(request);
  ASSERT_TRUE(after.status.ok()) << after.status << stack.log("gpu_worker");
  EXPECT_EQ(after.tokens, before.tokens);
}

TEST(RestartTest, TwoDocumentsInAnArenaForOneAndAHalf) {
  // Each needs 3 x 24 slots and more to write into; 128 are there. A document that is held whole must give way.
  StackOptions options;
  options.tiny_model_flags = {"--layers=3"};
  options.arena_bytes = "1MiB";
  Stack stack(options);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto first = InSession(Routed(TokenRequest(kPrompt, 5, 200), 0.1f), "first");
  const Answer alone = stack.Generate(first);
  ASSERT_TRUE(alone.status.ok()) << alone.status;
  Answer other;
  const Answer again = stack.Generate(first, [&](size_t tokens) {
    if (tokens == 1) other = stack.Generate(InSession(Routed(TokenRequest(kPrompt, 6, 8), 0.1f), "second"));
    return true;
  });
  ASSERT_TRUE(again.status.ok()) << again.status << stack.log("gpu_worker");
  EXPECT_TRUE(other.status.ok()) << other.status << stack.log("gpu_worker");
  EXPECT_EQ(again.tokens, alone.tokens);
}

}  // namespace
}  // namespace hga
