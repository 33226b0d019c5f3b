// The store's threads under pressure: disks that are full or slow, arenas that are held, sessions by the thousand.
#include "kv_store/store/store_loop.h"

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/temporary_folder.h"
#include "gtest/gtest.h"
#include "kv_store/tier/memory_tier.h"
#include "kv_store/tier/packed_tier.h"
#include "kv_store/tier/small_geometry.h"

namespace hga {
namespace {

using absl::StatusCode;

// Writes can be made to wait, and are counted.
class GatedTier : public MemoryTier {
 public:
  absl::Status Write(const WriteStep& step) override {
    std::unique_lock<std::mutex> lock(mu_);
    ++writes_;
    changed_.wait(lock, [this] { return open_; });
    return MemoryTier::Write(step);
  }
  void SetOpen(bool open) {
    {
      std::lock_guard<std::mutex> lock(mu_);
      open_ = open;
    }
    changed_.notify_all();
  }
  int writes() {
    std::lock_guard<std::mutex> lock(mu_);
    return writes_;
  }
  // Goes on until it is cancelled.
  absl::Status Compact(Compaction* compaction) override {
    compaction->all_bytes = 1;
    while (!compaction->cancelled) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return absl::CancelledError("");
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  bool open_ = true;  // guarded by mu_
  int writes_ = 0;    // guarded by mu_
};

class StoreLoopTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kSlots = 64;

  void TearDown() override {
    if (tier_ != nullptr) tier_->SetOpen(true);
    loop_.reset();
  }
  void Start(bool commit_waits_for_disk = false) {
    auto tier = std::make_unique<GatedTier>();
    tier_ = tier.get();
    StartWith(std::move(tier), commit_waits_for_disk);
  }
  void StartWith(std::unique_ptr<KvTier> tier, bool commit_waits_for_disk = false) {
    StoreLoopOptions options;
    options.arena_path = folder_.File("arena");
    options.arena_bytes = kSlots * SmallGeometry().block_bytes();
    options.commit_waits_for_disk = commit_waits_for_disk;
    options.store.writeback_queue_chunks = 8;
    auto loop = StoreLoop::Start(options, std::move(tier), std::make_shared<prometheus::Registry>());
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
    client_ = Attach();
    arena_ = std::make_unique<Arena>(*Arena::Open(client_.arena_path, client_.shape));
  }
  AttachedClient Attach() {
    const auto client = loop_->Attach("test", g_);
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *client : AttachedClient();
  }
  // One more chunk of the session, whose blocks are given back at once.
  absl::Status CommitNext(const OpenOutcome& session) {
    const auto slots = loop_->Reserve(client_.id, g_.layers);
    if (!slots.ok()) return slots.status();
    CommitArgs args;
    args.session_id = session.session_id;
    args.epoch = session.epoch;
    args.parent = chain_.empty() ? SeedHash(model_, g_) : chain_.back();
    args.token_ids.assign(g_.chunk_tokens, static_cast<uint32_t>(chain_.size()));
    args.hash = NextChunkHash(args.parent, args.token_ids);
    args.slots = *slots;
    for (uint32_t slot : *slots) {
      std::memset(arena_->Slot(slot), fill_ + static_cast<int>(chain_.size()), g_.block_bytes());
      args.checksums.push_back(BlockChecksum(arena_->Slot(slot), g_.block_bytes()));
    }
    chain_.push_back(args.hash);
    const auto committed = loop_->Commit(client_.id, std::move(args));
    if (!committed.ok()) return committed.status();
    return loop_->Release(client_.id, committed->slots);
  }
  // What refused a commit, after as many as went.
  absl::Status CommitUntilRefused(const OpenOutcome& session) {
    for (int i = 0; i < 1000; ++i) {
      if (absl::Status status = CommitNext(session); !status.ok()) return status;
    }
    return absl::OkStatus();
  }
  bool Eventually(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  const KvGeometry g_ = SmallGeometry();
  const ModelFingerprint model_ = HashBytes("model");
  const TemporaryFolder folder_;
  GatedTier* tier_ = nullptr;
  std::unique_ptr<StoreLoop> loop_;
  AttachedClient client_;
  std::unique_ptr<Arena> arena_;
  std::vector<ChunkHash> chain_;
  int fill_ = 1;  // each byte of the first chunk
};

TEST_F(StoreLoopTest, FullDiskRefusesServesAndRecovers) {
  Start();
  const auto session = loop_->OpenSession(client_.id, "s", model_, {});
  tier_->FailWrites(absl::ResourceExhaustedError("no space left on device"));
  // Let the first failure come, so that the refusal can say why.
  ASSERT_TRUE(CommitNext(*session).ok());
  ASSERT_TRUE(Eventually([&] { return tier_->writes() > 0; }));
  const absl::Status refused = CommitUntilRefused(*session);
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "retry in")) << refused;
  EXPECT_LE(loop_->GetStats().chunks_dirty, 9u);
  // What is in RAM is served all the while, and the disk is asked now and then only.
  const int before = tier_->writes();
  for (int i = 0; i < 200; ++i) {
    const auto got = loop_->Fetch(client_.id, {{chain_[0], 1}});
    ASSERT_TRUE(got.ok() && (*got)[0].status.ok());
    ASSERT_TRUE(loop_->Release(client_.id, {(*got)[0].slot}).ok());
  }
  EXPECT_LE(tier_->writes() - before, 100) << "the writer spins";
  tier_->FailWrites(absl::OkStatus());
  ASSERT_TRUE(loop_->Flush(false, std::chrono::seconds(20)).ok());
  EXPECT_EQ(loop_->GetStats().chunks_dirty, 0u);
  EXPECT_TRUE(CommitNext(*session).ok());
}

// What has left the arena is unpacked from RAM: the fetch says so, and damage on the disk does not matter.
TEST_F(StoreLoopTest, PackedBlocksAreFoundInRam) {
  auto disk = std::make_unique<MemoryTier>(KvDtype::kInt8);
  MemoryTier* const below = disk.get();
  StartWith(std::make_unique<PackedTier>(std::move(disk), 1 << 20));
  fill_ = 0x40;  // all values 3.0, which int8 has
  const auto session = loop_->OpenSession(client_.id, "s", model_, {});
  ASSERT_TRUE(CommitNext(*session).ok());
  ASSERT_TRUE(loop_->Flush(/*drop_ram=*/true, std::chrono::seconds(20)).ok());
  ASSERT_TRUE(below->DamageBlock({chain_[0], 1}));
  const auto got = loop_->Fetch(client_.id, {{chain_[0], 1}});
  ASSERT_TRUE(got.ok() && (*got)[0].status.ok());
  EXPECT_FALSE((*got)[0].from_disk);
  const uint8_t* block = arena_->Slot((*got)[0].slot);
  EXPECT_EQ(std::vector<uint8_t>(block, block + g_.block_bytes()), std::vector<uint8_t>(g_.block_bytes(), 0x40));
  EXPECT_EQ(loop_->GetStats().packed_ram_hits, 1u);
  EXPECT_EQ(loop_->GetStats().disk_hits, 0u);
}

TEST_F(StoreLoopTest, SlowDiskBoundsWhatWaits) {
  Start();
  const auto session = loop_->OpenSession(client_.id, "s", model_, {});
  tier_->SetOpen(false);
  EXPECT_EQ(CommitUntilRefused(*session).code(), StatusCode::kResourceExhausted);
  EXPECT_LE(loop_->GetStats().chunks_dirty, 10u);
  EXPECT_TRUE(loop_->OpenSession(client_.id, "t", model_, {chain_[0]}).ok());
  EXPECT_FALSE(loop_->Flush(false, std::chrono::milliseconds(50)).ok());
  tier_->SetOpen(true);
  EXPECT_TRUE(loop_->Flush(false, std::chrono::seconds(20)).ok());
}

TEST_F(StoreLoopTest, ArenaFullOfHeldSlots) {
  Start();
  const auto all = loop_->Reserve(client_.id, kSlots);
  ASSERT_TRUE(all.ok());
  const AttachedClient other = Attach();
  for (int i = 0; i < 100; ++i) {
    const auto refused = loop_->Reserve(other.id, 1);
    ASSERT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
    ASSERT_TRUE(absl::StrContains(refused.status().message(), "retry in")) << refused.status();
  }
  // A client that never gives anything back costs the others its slots until it leaves, and no more.
  loop_->Detach(client_.id);
  arena_.reset();
  EXPECT_TRUE(Eventually([&] { return loop_->Reserve(other.id, kSlots).ok(); }));
}

TEST_F(StoreLoopTest, HolderThatDoesNotReleaseIsAskedAndTheRestGoesOn) {
  Start();
  const auto session = loop_->OpenSession(client_.id, "s", model_, {});
  ASSERT_TRUE(CommitNext(*session).ok());
  ASSERT_TRUE(loop_->Flush(false, std::chrono::seconds(20)).ok());
  const auto held = loop_->Fetch(client_.id, {{chain_[0], 0}, {chain_[0], 1}});
  ASSERT_TRUE(held.ok());
  const AttachedClient other = Attach();
  const auto rest = loop_->Reserve(other.id, kSlots - 2);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(loop_->Reserve(other.id, 1).status().code(), StatusCode::kResourceExhausted);
  EXPECT_GT(client_.mailbox->Take(std::chrono::seconds(10)), 0u);
  ASSERT_TRUE(loop_->Release(other.id, *rest).ok());
  EXPECT_TRUE(loop_->Reserve(other.id, kSlots - 2).ok());
}

TEST_F(StoreLoopTest, BlocksLargerThanTheArena) {
  StoreLoopOptions options;
  options.arena_path = folder_.File("small");
  options.arena_bytes = 1 << 20;
  auto loop = StoreLoop::Start(options, std::make_unique<MemoryTier>(), std::make_shared<prometheus::Registry>());
  ASSERT_TRUE(loop.ok());
  KvGeometry large;
  large.layers = 48;
  large.query_heads = large.kv_heads = 8;
  large.head_dim = 128;
  const auto refused = (*loop)->Attach("large", large);
  EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition) << refused.status();
  EXPECT_TRUE(absl::StrContains(refused.status().message(), "--arena_bytes")) << refused.status();
  EXPECT_TRUE((*loop)->Attach("small", g_).ok());
}

TEST_F(StoreLoopTest, BlocksOfAnotherTypeAreRefusedByName) {
  Start();
  const auto session = loop_->OpenSession(client_.id, "s", model_, {});
  ASSERT_TRUE(CommitNext(*session).ok());
  KvGeometry other = g_;
  other.dtype = KvDtype::kInt8;
  const auto refused = loop_->Attach("other", other);
  EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition) << refused.status();
  for (const char* part : {"bf16", "int8", "--data_dir"}) {
    EXPECT_TRUE(absl::StrContains(refused.status().message(), part)) << refused.status();
  }
}

TEST_F(StoreLoopTest, ThousandsOfSessions) {
  Start();
  constexpr int kSessions = 5000;
  for (int i = 0; i < kSessions; ++i) {
    const auto session = loop_->OpenSession(client_.id, absl::StrCat("s", i), model_, {});
    ASSERT_TRUE(session.ok()) << session.status();
    ASSERT_TRUE(loop_->UpdateSession(client_.id, session->session_id, session->epoch, {}, {1, 2}).ok());
    ASSERT_TRUE(loop_->CloseSession(client_.id, session->session_id, session->epoch).ok());
  }
  EXPECT_EQ(loop_->ListSessions().size(), static_cast<size_t>(kSessions));
  for (int i = 0; i < kSessions; ++i) ASSERT_TRUE(loop_->DeleteSession(absl::StrCat("s", i)).ok());
  ASSERT_TRUE(loop_->Flush(false, std::chrono::seconds(20)).ok());
  EXPECT_TRUE(tier_->SessionNames().empty());
}

TEST_F(StoreLoopTest, CommitAckDiskCoversManifestsAndDeletions) {
  Start(/*commit_waits_for_disk=*/true);
  const auto session = loop_->OpenSession(client_.id, "s", model_, {});
  ASSERT_TRUE(CommitNext(*session).ok());
  EXPECT_TRUE(tier_->HasChunk(chain_[0]));
  ASSERT_TRUE(loop_->UpdateSession(client_.id, "s", session->epoch, chain_, {}).ok());
  EXPECT_EQ(tier_->SessionNames(), std::vector<std::string>{"s"});
  ASSERT_TRUE(loop_->CloseSession(client_.id, "s", session->epoch).ok());
  ASSERT_TRUE(loop_->DeleteSession("s").ok());
  EXPECT_TRUE(tier_->SessionNames().empty());
  EXPECT_TRUE(tier_->ChunksWithBlocks().empty());
}

TEST_F(StoreLoopTest, OneCompactionAtATimeAndTheStoreGoesOn) {
  Start();
  Compaction first, second;
  absl::Status ended;
  std::thread compacting([&] { ended = loop_->Compact(&first); });
  EXPECT_TRUE(Eventually([&] { return first.all_bytes == 1; }));
  EXPECT_EQ(loop_->Compact(&second).code(), StatusCode::kResourceExhausted);
  const auto session = loop_->OpenSession(client_.id, "s", model_, {});
  ASSERT_TRUE(session.ok());
  EXPECT_TRUE(CommitNext(*session).ok());
  EXPECT_TRUE(loop_->Fetch(client_.id, {{chain_[0], 0}}).ok());
  EXPECT_TRUE(loop_->Flush(false, std::chrono::seconds(20)).ok());
  first.cancelled = true;
  compacting.join();
  EXPECT_EQ(ended.code(), StatusCode::kCancelled);
  second.cancelled = true;
  EXPECT_EQ(loop_->Compact(&second).code(), StatusCode::kCancelled) << "the next one may begin";
}

}  // namespace
}  // namespace hga
