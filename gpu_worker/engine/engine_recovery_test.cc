// What the store loses while a request is under way is computed again and changes no token, or the request ends and
// says why.
#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/match.h"
#include "gpu_worker/engine/testing_engine.h"

namespace hga {
namespace {

constexpr uint32_t kTightSlots = 36;  // of 19 chunks in 2 layers
constexpr uint32_t kTightSlotsOfTwo = 66;  // of 19 and 17 chunks
constexpr float kWarm = 4;            // at 1 the tiny model repeats itself

class EngineRecoveryTest : public EngineTest {
 protected:
  using Hook = std::function<void(absl::Span<const BlockHeads>)>;
  // The first fetch after so many exchanges with the router finds its last block damaged; afterwards `then` is called
  // before each fetch.
  void DamageAfter(uint64_t posts, Hook then = nullptr) {
    *posts_ = 0;
    store_->BeforeFetch([this, posts, then, damaged = false](absl::Span<const BlockHeads> blocks) mutable {
      if (damaged && then) then(blocks);
      // A single block is the sealer's question for a chunk that the store has not.
      if (damaged || *posts_ < posts || blocks.size() < 2) return;
      store_->DamageChunk(blocks.back().name.chunk);
      lost_ = blocks.back().name.chunk;
      damaged = true;
    });
  }
  // In a tight arena; says how many exchanges with the router it took.
  Answer RunUndisturbed(const EngineRequest& request, uint64_t* posts) {
    Start(true, kTightSlots);
    *posts_ = 0;
    Answer answer = Run(request);
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    *posts = *posts_;
    Start(true, kTightSlots);
    return answer;
  }
  bool CutBegan() const { return engine_->totals().tiers.recomputed > 0; }
  // Another user of the arena, who takes all that is free.
  void TakeTheRoom() {
    for (;;) {
      auto block = store_->Reserve(1);
      if (!block.ok()) return;
      others_.push_back(std::move((*block)[0]));
    }
  }

  ChunkHash lost_;
  std::vector<HeldBlock> others_;
};

TEST_F(EngineRecoveryTest, LostChunkIsComputedAgain) {
  const auto request = Sampled(InSession(Request(RandomTokens(900, 10), 30, 0.1f), "doc"), kWarm);
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

TEST_F(EngineRecoveryTest, AChunkThatIsLostAtAnyTimeChangesNoToken) {
  for (const float fraction : {1.0f, 0.1f}) {  // by blocks; by single keys
    const auto request = Sampled(Request(RandomTokens(1220, 8), 80, fraction), kWarm);
    uint64_t posts;
    const Answer expected = RunUndisturbed(request, &posts);
    ASSERT_GT(posts, 100u);
    int damaged = 0;
    for (uint64_t at = 4; at < posts - 8; at += posts / 7) {
      Start(true, kTightSlots);
      DamageAfter(at);
      const Answer answer = Run(request);
      ASSERT_TRUE(answer.status.ok()) << answer.status << " after " << at << " of " << posts;
      EXPECT_EQ(answer.tokens, expected.tokens) << at << " of " << posts;
      EXPECT_EQ(answer.stats.decode_steps, expected.stats.decode_steps);
      for (const bool decode : {false, true}) {
        EXPECT_EQ(answer.stats.attended_keys[decode], expected.stats.attended_keys[decode]) << decode;
        EXPECT_EQ(answer.stats.dense_keys[decode], expected.stats.dense_keys[decode]) << decode;
      }
      damaged += answer.stats.tiers.recomputed > 0;
    }
    EXPECT_GE(damaged, 3);
  }
}

// The window of the shorter sequence is fetched when others have taken the slots that the cut made free.
TEST_F(EngineRecoveryTest, ACutWaitsForRoom) {
  const auto request = Sampled(Request(RandomTokens(1220, 8), 40), kWarm);
  uint64_t posts;
  const Answer expected = RunUndisturbed(request, &posts);
  int fetches = 0;
  ChunkHash wanted;
  DamageAfter(posts / 2, [&](absl::Span<const BlockHeads> blocks) {
    if (!CutBegan()) return;
    if (++fetches == 1) wanted = blocks.back().name.chunk;
    if (fetches < 4) TakeTheRoom();
    if (fetches == 4) others_.clear();
  });
  const Answer answer = Run(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.tokens, expected.tokens);
  EXPECT_GT(answer.stats.tiers.recomputed, 0u);
  EXPECT_GE(fetches, 4);
  // What found no room was the window's.
  const auto hashes = ChunkHashes(model_.fingerprint, model_.geometry, request.tokens);
  const auto at = [&](const ChunkHash& hash) { return std::find(hashes.begin(), hashes.end(), hash) - hashes.begin(); };
  EXPECT_LT(at(wanted), at(lost_));
  EXPECT_GE(at(wanted) + 4, at(lost_));
}

TEST_F(EngineRecoveryTest, ACutThatFindsNoRoomSaysWhatToDo) {
  const auto request = Sampled(Request(RandomTokens(1220, 8), 40), kWarm);
  uint64_t posts;
  const Answer expected = RunUndisturbed(request, &posts);
  DamageAfter(posts / 2, [&](absl::Span<const BlockHeads>) {
    if (CutBegan()) TakeTheRoom();
  });
  const Answer cut = Run(request);
  EXPECT_EQ(cut.status.code(), absl::StatusCode::kResourceExhausted) << cut.status;
  EXPECT_TRUE(absl::StrContains(cut.status.message(), "--arena_bytes")) << cut.status;
  store_->BeforeFetch(nullptr);
  others_.clear();
  EXPECT_EQ(Run(request).tokens, expected.tokens);
}

// While another user of the arena has all that is free, a short sequence, which needs no more, runs to its end.
TEST_F(EngineRecoveryTest, WhoFindsNoRoomHoldsUpNoOther) {
  const auto request = Sampled(Request(RandomTokens(1220, 8), 40), kWarm);
  uint64_t posts;
  const Answer expected = RunUndisturbed(request, &posts);
  Start(true, kTightSlots + 2);
  std::atomic<bool> taking{false};
  std::atomic<int> refused{0};
  store_->BeforeFetch([&](absl::Span<const BlockHeads>) {
    if (!taking) return others_.clear();
    TakeTheRoom();
    ++refused;
  });
  Answer other;
  const Answer answer = Run(request, [&](size_t tokens) {
    if (tokens != 5) return;
    auto events = *engine_->Submit(Request(RandomTokens(20, 9), 40));
    other = Collect(events.get(), [&](size_t) { taking = true; });
    taking = false;
  });
  store_->BeforeFetch(nullptr);
  ASSERT_TRUE(other.status.ok()) << other.status;
  EXPECT_EQ(other.tokens.size(), 40u);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.tokens, expected.tokens);
  EXPECT_GT(refused, 0);
}

TEST_F(EngineRecoveryTest, ANeighbourInATightArenaDoesNotNotice) {
  const auto first = Sampled(Request(RandomTokens(1220, 8), 40), kWarm);
  const auto second = Sampled(Request(RandomTokens(1100, 9), 40), kWarm);
  const auto run_both = [&] {
    auto other = *engine_->Submit(second);
    const Answer answer = Run(first);
    return std::make_pair(answer, Collect(other.get()));
  };
  Start(true, kTightSlotsOfTwo);
  *posts_ = 0;
  const auto expected = run_both();
  const uint64_t posts = *posts_;
  for (const uint64_t at : {posts / 3, posts / 2}) {
    Start(true, kTightSlotsOfTwo);
    DamageAfter(at);
    const auto both = run_both();
    EXPECT_EQ(both.first.tokens, expected.first.tokens) << both.first.status << " after " << at;
    EXPECT_EQ(both.second.tokens, expected.second.tokens) << both.second.status << " after " << at;
    EXPECT_GT(both.first.stats.tiers.recomputed + both.second.stats.tiers.recomputed, 0u) << at;
  }
}

TEST_F(EngineRecoveryTest, AStoreThatKeepsLosingEndsTheRequest) {
  Start(true, kTightSlots);
  *posts_ = 0;
  store_->BeforeFetch([this](absl::Span<const BlockHeads> blocks) {
    if (*posts_ > 20) store_->DamageChunk(blocks.back().name.chunk);
  });
  const Answer answer = Run(Request(RandomTokens(1220, 8), 40));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kDataLoss) << answer.status;
}

// Its manifest names more than has been computed again by then.
TEST_F(EngineRecoveryTest, ATurnThatEndsAfterACutLeavesTheSessionWhole) {
  Start(true, kTightSlots);
  ASSERT_TRUE(Run(InSession(Request(RandomTokens(1220, 8), 10), "doc")).status.ok());
  const auto before = store_->GetSession("doc", model_.fingerprint);
  ASSERT_TRUE(before.ok()) << before.status();
  auto events = *engine_->Submit(InSession(Request(RandomTokens(20, 9), 40), "doc", true));
  const Answer cut = Collect(events.get(), [&](size_t tokens) {
    if (tokens == 3) DamageAfter(0, [&](auto) { events->Cancel(absl::CancelledError("enough")); });
  });
  EXPECT_EQ(cut.status.code(), absl::StatusCode::kCancelled) << cut.status;
  const auto after = store_->GetSession("doc", model_.fingerprint);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(*after, *before);
}

// The last token fills a chunk and is computed once the answer is whole.
TEST_F(EngineRecoveryTest, AChunkThatIsLostWithTheLastTokenIsStillSaved) {
  const auto request = InSession(Request(RandomTokens(1220, 8), 60), "doc");
  uint64_t posts;
  (void)RunUndisturbed(request, &posts);
  DamageAfter(posts - model_.geometry.layers + 1);  // in the last step
  const Answer answer = Run(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_GT(answer.stats.tiers.recomputed, 0u);
  const auto kept = store_->GetSession("doc", model_.fingerprint);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->size(), 1280u);
}

TEST_F(EngineRecoveryTest, FailedCommitEndsTheRequestClearly) {
  const Answer answer = Run(Request(RandomTokens(300, 39), 400), [&](size_t tokens) {
    if (tokens == 5) store_->SetConnected(false);
  });
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kUnavailable) << answer.status;
  store_->SetConnected(true);
  EXPECT_TRUE(Run(Request(RandomTokens(300, 39), 4)).status.ok());
}

}  // namespace
}  // namespace hga
