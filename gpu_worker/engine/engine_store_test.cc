// What tiers, caches and a small arena must not do to an answer: change it.
#include <condition_variable>
#include <mutex>
#include <tuple>

#include "absl/time/clock.h"
#include "gpu_worker/engine/testing_engine.h"

namespace hga {
namespace {

using EngineStoreTest = EngineTest;

TEST_F(EngineStoreTest, DroppingRamBetweenTurnsChangesNoToken) {
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

TEST_F(EngineStoreTest, TightStoreChangesNoToken) {
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
TEST_F(EngineStoreTest, EarlySelectionsChangeNoToken) {
  const auto first = InSession(Request(RandomTokens(2000, 6), 10, 0.01f), "doc");
  const auto second = Sampled(InSession(Request(RandomTokens(20, 7), 60, 0.01f), "doc", true));
  std::vector<Answer> answers;
  for (const uint32_t slots : {0u, 56u}) {
    for (const bool early : {false, true}) {
      EngineOptions options = Routed();
      options.early_selection = early;
      options.prefill_block_tokens = 64;  // the prompt's tokens leave blocks for the answer to bring
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

// Where the arena is too small keys are copied, and where they are found again blocks are not read: nothing else
// changes.
TEST_F(EngineStoreTest, TheKeyCacheChangesNoToken) {
  const auto prompt = RandomTokens(1850, 6);
  auto shorter = std::vector<uint32_t>(prompt.begin(), prompt.begin() + 1300);  // goes on otherwise, with other keys
  for (const uint32_t token : RandomTokens(300, 9)) shorter.push_back(token);
  const auto run_all = [&] {
    std::vector<std::vector<uint32_t>> answers;
    const auto run = [&](EngineRequest request) {
      const Answer answer = Run(Sampled(std::move(request)));
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

TEST_F(EngineStoreTest, TheKeyCacheSparesReads) {
  uint64_t read[2];
  for (const bool cached : {false, true}) {
    EngineOptions options = Routed();
    if (!cached) options.key_cache_bytes = 0;
    Start(true, 54, options);
    uint64_t by_heads = 0;
    store_->BeforeFetch([&](absl::Span<const BlockHeads> blocks) {
      store_->DropRam();
      for (const BlockHeads& block : blocks) by_heads += block.heads != kAllHeads;
    });
    const Answer answer = Run(Request(RandomTokens(1850, 6), 60, 0.02f));
    store_->BeforeFetch(nullptr);
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(by_heads > 0, cached);
    const double bytes = CounterValue(*registry_, "hga_worker_kv_bytes_total", "disk"),
                 whole = CounterValue(*registry_, "hga_worker_kv_blocks_total", "disk") * model_.geometry.block_bytes();
    EXPECT_GT(bytes, 0);
    EXPECT_EQ(bytes < whole, cached) << bytes << " of " << whole;
    read[cached] = answer.stats.tiers.ram + answer.stats.tiers.disk;
    EXPECT_EQ(answer.stats.tiers.keys > 0, cached);
    EXPECT_EQ(engine_->totals().tiers.keys, answer.stats.tiers.keys);
  }
  EXPECT_LT(read[1], read[0]);
}

// Slots of the arena are taken for single keys where the cache's own memory is small, and go back as soon as the store
// or other work wants them.
TEST_F(EngineStoreTest, KeysTakeSlotsAndGiveThemBack) {
  EngineOptions options = Routed();
  options.key_cache_bytes = 40000;
  const auto request = InSession(Request(RandomTokens(1850, 6), 60, 0.1f), "doc");
  Start(true, 0, options);
  const Answer roomy = Run(request);
  const auto held = [this] { return store_->GetStats()->slots_held; };
  EXPECT_EQ(held(), 0u);
  Start(true, 54, options);
  const Answer tight = Run(request);
  ASSERT_TRUE(tight.status.ok()) << tight.status;
  EXPECT_EQ(tight.tokens, roomy.tokens);
  EXPECT_GT(tight.stats.tiers.keys, 0u);
  const uint64_t kept = held();  // for the next answer
  EXPECT_GT(kept, 0u);
  store_->SetReclaim(1);  // also while nothing is under way
  for (int i = 0; i < 100 && held() == kept; ++i) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(held(), kept - 1);
  ASSERT_TRUE(Run(Request(RandomTokens(200, 7), 5)).status.ok());
  EXPECT_EQ(held(), 0u) << "kept from work that finds room";
}

// They would only push out what others use.
TEST_F(EngineStoreTest, LargeSelectionsGoByBlocks) {
  Start(true, 54);
  const Answer answer = Run(Request(RandomTokens(1850, 6), 20));
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_GT(answer.stats.tiers.ram, 0u) << "the arena was not short";
  EXPECT_EQ(answer.stats.tiers.keys, 0u);
  EXPECT_EQ(CounterValue(*registry_, "hga_worker_kv_bytes_total", "keys"), 0);
}

TEST_F(EngineStoreTest, HopelesslySmallStoreSaysSo) {
  Start(true, 6);
  const Answer answer = Run(Request(RandomTokens(1200, 9), 4));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kResourceExhausted) << answer.status;
}

// The first commit takes as long as the step loop needs to look for work many times.
class SlowStore : public MemoryKvClient {
 public:
  using MemoryKvClient::MemoryKvClient;
  absl::StatusOr<std::vector<HeldBlock>> Commit(const OpenedSession& session, CommitChunk chunk) override {
    if (commits_++ == 0) {
      std::unique_lock<std::mutex> lock(mu_);
      changed_.wait(lock, [this, until = rounds_ + 40] { return rounds_ >= until; });
      held_meanwhile = GetStats()->slots_held;
    }
    return MemoryKvClient::Commit(session, std::move(chunk));
  }
  bool connected() const override {
    std::lock_guard<std::mutex> lock(mu_);
    ++rounds_;
    changed_.notify_one();
    return MemoryKvClient::connected();
  }
  uint64_t held_meanwhile = 0;

 private:
  int commits_ = 0;  // sealer's thread only
  mutable std::mutex mu_;
  mutable std::condition_variable changed_;
  mutable int rounds_ = 0;  // guarded by mu_
};

// What waits to be sealed is bounded: room for the next chunks is asked for behind it.
TEST_F(EngineStoreTest, ASlowStoreHoldsUpAPromptAfterTwoBatches) {
  engine_.reset();
  SlowStore store(model_.geometry);
  engine_ = *Engine::Start(model_, Routed(), backend_.get(), &store, link_.get(), registry_);
  const Answer answer = Run(Dense(Request(RandomTokens(1800, 9), 4)));
  engine_.reset();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_GT(store.held_meanwhile, 0u);
  EXPECT_LE(store.held_meanwhile, 2 * Routed().prefill_batch_tokens / 64 * model_.geometry.layers);
}

}  // namespace
}  // namespace hga
