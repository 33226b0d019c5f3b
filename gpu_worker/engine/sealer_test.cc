#include "gpu_worker/engine/sealer.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "kv_store/client/memory_kv_client.h"
#include "router/client/dense_route_client.h"

namespace hga {
namespace {

constexpr uint64_t kId = 7;
constexpr uint32_t kSlots = 16;

KvGeometry SmallGeometry() {
  KvGeometry g;
  g.layers = 2;
  g.query_heads = 2;
  g.kv_heads = 1;
  g.head_dim = 16;
  return g;
}

// Knows nothing at first; keeps what it is told.
class NewRouter : public DenseRouteClient {
 public:
  NewRouter(const KvGeometry& g, std::vector<std::string>* summaries) : DenseRouteClient(g), summaries_(summaries) {}
  absl::StatusOr<uint32_t> OpenSequence(uint64_t, absl::Span<const ChunkHash>) override { return 0u; }
  absl::Status AppendSummary(uint64_t, uint32_t, const ChunkHash&, const std::string& data) override {
    summaries_->push_back(data);
    return absl::OkStatus();
  }

 private:
  std::vector<std::string>* const summaries_;
};

class SealerTest : public testing::Test {
 protected:
  SealerTest() { Start("sketch", &no_router_); }
  void Start(const std::string& method, RouterLink* link) {
    SealerOptions options;
    options.shape = {g_, /*sink_tokens=*/16, /*window_chunks=*/1};
    options.context_tokens = 4096;
    options.method = *FindSummaryMethod(method);
    sealer_ = std::make_unique<Sealer>(options, &store_, link, [this](SealerEvent event) {
      std::lock_guard<std::mutex> lock(mu_);
      events_.push_back(std::move(event));
      arrived_.notify_one();
    });
  }

  SealerEvent Next() {
    std::unique_lock<std::mutex> lock(mu_);
    arrived_.wait(lock, [this] { return !events_.empty(); });
    SealerEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  SealerEvent Open(uint64_t id, const std::string& session = "") {
    auto request = std::make_shared<EngineRequest>();
    request->tokens = tokens_;
    request->session = session;
    sealer_->Open(id, request);
    return Next();
  }
  SealTask Task(uint64_t id, uint32_t chunk) {
    sealer_->Reserve(id);
    SealerEvent reserved = Next();
    EXPECT_TRUE(reserved.status.ok()) << reserved.status;
    SealTask task;
    task.sequence_id = id;
    task.chunk = chunk;
    const auto begin = tokens_.begin() + chunk * g_.chunk_tokens;
    task.token_ids.assign(begin, begin + g_.chunk_tokens);
    task.parent = chunk == 0 ? SeedHash(ModelFingerprint(), g_) : hashes_[chunk - 1];
    task.hash = hashes_[chunk];
    task.blocks = std::move(reserved.blocks);
    return task;
  }
  SealerEvent Seal(uint64_t id, uint32_t chunk) {
    sealer_->Seal(Task(id, chunk));
    return Next();
  }
  uint64_t Held() { return store_.GetStats()->slots_held; }

  const KvGeometry g_ = SmallGeometry();
  const std::vector<uint32_t> tokens_ = std::vector<uint32_t>(4 * g_.chunk_tokens + 5, 9);
  const std::vector<ChunkHash> hashes_ = ChunkHashes(ModelFingerprint(), g_, tokens_);
  MemoryKvClient store_{g_, kSlots};
  RouterLink no_router_{nullptr};
  std::mutex mu_;
  std::condition_variable arrived_;
  std::deque<SealerEvent> events_;
  std::unique_ptr<Sealer> sealer_;  // last: ends first
};

TEST_F(SealerTest, WhatIsSealedIsFoundByTheNext) {
  EXPECT_EQ(Open(kId).opened->hashes.size(), 0u);
  for (const uint32_t chunk : {0u, 1u}) {
    const SealerEvent committed = Seal(kId, chunk);
    EXPECT_EQ(committed.kind, SealerEvent::Kind::kCommitted);
    EXPECT_TRUE(committed.status.ok()) << committed.status;
    EXPECT_EQ(committed.chunk, chunk);
    EXPECT_EQ(committed.blocks.size(), g_.layers);
  }
  const SealerEvent second = Open(kId + 1);
  EXPECT_EQ(second.opened->hashes.size(), 2u);
  EXPECT_EQ(second.opened->blocks.size(), 2 * g_.layers);  // sink and window: both chunks
  EXPECT_EQ(second.opened->tiers.ram, 2 * g_.layers);
}

// Its reader must have changed to the store's own blocks before the copies are given up.
TEST_F(SealerTest, ADuplicateIsHandedOutBeforeItIsCommitted) {
  ASSERT_TRUE(Open(kId).status.ok());
  ASSERT_TRUE(Open(kId + 1).status.ok());
  SealerEvent first = Seal(kId, 0);
  SealerEvent twin = Seal(kId + 1, 0);
  ASSERT_EQ(twin.kind, SealerEvent::Kind::kDuplicate);
  ASSERT_EQ(twin.blocks.size(), g_.layers);
  EXPECT_EQ(twin.blocks[1].slot(), first.blocks[1].slot());
  EXPECT_EQ(Held(), 2 * g_.layers);  // the store's and the copies
  // Given up for want of room, and found again.
  twin.blocks.clear();
  sealer_->FindAgain(kId + 1, 0, *std::move(twin.commit), false);
  SealerEvent again = Next();
  ASSERT_EQ(again.kind, SealerEvent::Kind::kDuplicate);
  EXPECT_EQ(again.blocks[1].slot(), first.blocks[1].slot());
  sealer_->CommitDuplicate(kId + 1, 0, *std::move(again.commit), false);
  const SealerEvent committed = Next();
  EXPECT_EQ(committed.kind, SealerEvent::Kind::kCommitted);
  EXPECT_TRUE(committed.status.ok()) << committed.status;
  first.blocks.clear();
  again.blocks.clear();
  EXPECT_EQ(Held(), g_.layers);
}

// As after a cut, when chunks are computed again that the store still has: a step may be waiting for the same room, and
// hold the slots that would be waited for here.
TEST_F(SealerTest, ADuplicateThatTheStoreHasOnDiskNeedsNoRoom) {
  ASSERT_TRUE(Open(kId).status.ok());
  ASSERT_TRUE(Open(kId + 1).status.ok());
  ASSERT_TRUE(Seal(kId, 0).status.ok());  // and given up
  SealTask task = Task(kId + 1, 0);
  const uint32_t slot = task.blocks[0].slot();
  const auto others = store_.Reserve(kSlots - g_.layers);
  ASSERT_TRUE(others.ok()) << others.status();
  int fetches = 0;
  store_.BeforeFetch([&](absl::Span<const BlockHeads>) { ++fetches; });
  sealer_->Seal(std::move(task));
  const SealerEvent committed = Next();
  store_.BeforeFetch(nullptr);
  EXPECT_EQ(committed.kind, SealerEvent::Kind::kCommitted);
  ASSERT_TRUE(committed.status.ok()) << committed.status;
  EXPECT_EQ(committed.blocks[0].slot(), slot) << "another copy was read from this one's place";
  EXPECT_EQ(fetches, 1);
}

TEST_F(SealerTest, ALostChunkShortensThePrefix) {
  ASSERT_TRUE(Open(kId, "doc").status.ok());
  for (uint32_t chunk = 0; chunk < 3; ++chunk) ASSERT_TRUE(Seal(kId, chunk).status.ok());
  store_.DamageChunk(hashes_[2]);  // in the window of the next
  const SealerEvent opened = Open(kId + 1);
  ASSERT_TRUE(opened.status.ok()) << opened.status;
  EXPECT_EQ(opened.opened->hashes.size(), 2u);
  EXPECT_EQ(opened.opened->tiers.recomputed, g_.layers);
}

// As after an update that measures the model in other numbers: nothing is computed again that K/V is there for.
TEST_F(SealerTest, SummariesOfAnotherMethodAreMadeAgain) {
  std::vector<std::string> by_sketch, again;
  RouterLink routers[] = {RouterLink([&] { return std::make_unique<NewRouter>(g_, &by_sketch); }),
                          RouterLink([&] { return std::make_unique<NewRouter>(g_, &again); })};
  Start("sketch", &routers[0]);
  ASSERT_TRUE(Open(kId).status.ok());
  for (uint32_t chunk = 0; chunk < 3; ++chunk) {
    SealTask task = Task(kId, chunk);
    for (const HeldBlock& block : task.blocks) std::memset(block.data(), 60 + chunk, g_.block_bytes());
    sealer_->Seal(std::move(task));
    EXPECT_EQ(Next().kind, SealerEvent::Kind::kRouted);
    EXPECT_EQ(Next().kind, SealerEvent::Kind::kCommitted);
  }
  Start("mean", &routers[1]);
  SealerEvent opened = Open(kId + 1);
  ASSERT_TRUE(opened.status.ok()) << opened.status;
  EXPECT_EQ(opened.opened->hashes.size(), 3u);
  EXPECT_TRUE(opened.at_router);
  EXPECT_EQ(opened.acked, 3u);
  ASSERT_EQ(again.size(), 3u);
  const SummaryMethod& mean = **FindSummaryMethod("mean");
  for (const uint32_t chunk : {0u, 1u, 2u}) {
    std::vector<uint8_t> block(g_.block_bytes(), 60 + chunk);
    std::string right(mean.chunk_bytes(g_), '\0');
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      SummarizeBlock(g_, mean, layer, block.data(), reinterpret_cast<uint8_t*>(&right[layer * mean.layer_bytes(g_)]));
    }
    EXPECT_EQ(again[chunk], right);
  }
  // Without its K/V what follows is computed again.
  opened.opened.reset();
  again.clear();
  store_.DamageChunk(hashes_[1]);
  const SealerEvent shorter = Open(kId + 2);
  ASSERT_TRUE(shorter.status.ok()) << shorter.status;
  EXPECT_EQ(shorter.opened->hashes.size(), 1u);
}

TEST_F(SealerTest, ASequenceWaitsForRoomToStart) {
  ASSERT_TRUE(Open(kId).status.ok());
  ASSERT_TRUE(Seal(kId, 0).status.ok());
  auto others = store_.Reserve(kSlots);
  ASSERT_TRUE(others.ok()) << others.status();
  int fetches = 0;
  store_.BeforeFetch([&](absl::Span<const BlockHeads>) {
    if (++fetches == 3) others->clear();
  });
  const SealerEvent opened = Open(kId + 1);
  store_.BeforeFetch(nullptr);
  ASSERT_TRUE(opened.status.ok()) << opened.status;
  EXPECT_EQ(opened.opened->hashes.size(), 1u);
  EXPECT_EQ(fetches, 3);
}

TEST_F(SealerTest, WithoutRoomTheErrorSaysWhatToDo) {
  ASSERT_TRUE(Open(kId).status.ok());
  ASSERT_TRUE(Seal(kId, 0).status.ok());
  const auto others = store_.Reserve(kSlots);
  const SealerEvent opened = Open(kId + 1);
  EXPECT_EQ(opened.status.code(), absl::StatusCode::kResourceExhausted) << opened.status;
  EXPECT_TRUE(absl::StrContains(opened.status.message(), "--arena_bytes")) << opened.status;
}

TEST_F(SealerTest, AStoreThatWasRestartedEndsASequenceForGood) {
  ASSERT_TRUE(Open(kId).status.ok());
  ASSERT_TRUE(Seal(kId, 0).status.ok());
  SealTask next = Task(kId, 1), last = Task(kId, 2);
  store_.SetConnected(false);
  store_.SetConnected(true);
  sealer_->Seal(std::move(next));
  const SealerEvent failed = Next();
  EXPECT_EQ(failed.status.code(), absl::StatusCode::kUnavailable) << failed.status;
  EXPECT_TRUE(absl::StrContains(failed.status.message(), "send the request again")) << failed.status;
  sealer_->Seal(std::move(last));
  const SealerEvent after = Next();
  EXPECT_EQ(after.status, failed.status);
  EXPECT_EQ(after.blocks.size(), g_.layers) << "the lent blocks come back";
}

TEST_F(SealerTest, ClosingSavesTheSessionOrLeavesIt) {
  ASSERT_TRUE(Open(kId, "doc").status.ok());
  ASSERT_TRUE(Seal(kId, 0).status.ok());
  sealer_->Close(kId, /*save=*/true, 1, {1, 2, 3});
  EXPECT_TRUE(Next().status.ok());
  EXPECT_EQ(store_.GetSession("doc", ModelFingerprint())->size(), g_.chunk_tokens + 3);
  ASSERT_TRUE(Open(kId, "doc").status.ok());
  ASSERT_TRUE(Seal(kId, 1).status.ok());
  sealer_->Close(kId, /*save=*/false, 2, {});
  EXPECT_TRUE(Next().status.ok());
  EXPECT_EQ(store_.GetSession("doc", ModelFingerprint())->size(), g_.chunk_tokens + 3);
}

}  // namespace
}  // namespace hga
