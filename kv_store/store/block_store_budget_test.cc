// The disk budget, and pins.
#include "kv_store/store/block_store.h"

#include "gtest/gtest.h"
#include "kv_store/store/testing_block_store.h"

namespace hga {
namespace {

using absl::StatusCode;

TEST_F(BlockStoreTest, DiskBudgetHoldsTwiceOfWhatIsPacked) {
  options_.disk_bytes = 5 * g_.block_bytes() * g_.layers * 10 / 7 + 100;  // five chunks, nine that are packed
  for (const bool packed : {false, true}) {
    options_.packs_bf16 = packed;
    Restart();
    MakeSession(packed ? "b" : "a", 4);
    OpenOutcome other;
    CommitOther("other", 4, &other);
    EXPECT_EQ(store_->stats().budget_evicted_chunks > 0, !packed);
  }
}

TEST_F(BlockStoreTest, DiskBudgetTakesBlocksOfSessionsNotUsedForLongest) {
  const uint64_t chunk_bytes = g_.block_bytes() * g_.layers;
  options_.disk_bytes = 5 * chunk_bytes * 10 / 7 + 10;  // five chunks
  Restart();
  MakeSession("a", 2);  // chunks 0 and 1, shared with b
  MakeSession("b", 4);
  // Another sequence, of three chunks.
  const OpenOutcome other = Open(kA, "c");
  std::vector<ChunkHash> hashes;
  for (uint32_t i = 0; i < 3; ++i) {
    const auto slots = store_->Reserve(kA, g_.layers);
    ASSERT_TRUE(slots.ok()) << slots.status();
    CommitArgs args = Args(other, 0, *slots);
    args.parent = i == 0 ? SeedHash(model_, g_) : hashes.back();
    args.token_ids.assign(g_.chunk_tokens, 77);
    args.hash = NextChunkHash(args.parent, args.token_ids);
    hashes.push_back(args.hash);
    const auto committed = store_->Commit(kA, args);
    ASSERT_TRUE(committed.ok()) << committed.status();
    ASSERT_TRUE(store_->Release(kA, committed->slots).ok());
    WriteAll();
  }
  // b lost what only it had; a and b keep what they share; all token ids are there, also after a restart.
  const StoreStats stats = store_->stats();
  EXPECT_EQ(stats.budget_evicted_sessions, 1u);
  EXPECT_EQ(stats.budget_evicted_chunks, 2u);
  EXPECT_FALSE(tier_.HasChunk(Hash(3)));
  EXPECT_TRUE(tier_.HasChunk(Hash(1)));
  EXPECT_EQ(Tokens("b")->token_ids.size(), 4 * g_.chunk_tokens);
  ASSERT_TRUE(store_->UpdateSession(kA, "c", other.epoch, hashes, {}).ok());
  WriteAll();
  Restart();
  EXPECT_EQ(Tokens("a")->token_ids.size(), 2 * g_.chunk_tokens);
  EXPECT_EQ(Tokens("b")->token_ids, (std::vector<uint32_t>{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3}));
  EXPECT_EQ(Open(kA, "b", HashesUpTo(4)).matched, 2u);
}

TEST_F(BlockStoreTest, PinsByRequestSurviveARestart) {
  EXPECT_EQ(store_->PinSession("s", true).code(), StatusCode::kNotFound);
  MakeSession("s", 1);
  ASSERT_TRUE(store_->PinSession("s", true).ok());
  WriteAll();
  Restart();
  EXPECT_TRUE(store_->ListSessions()[0].pinned);
}

TEST_F(BlockStoreTest, RequestsCannotPinMoreThanTheirQuota) {
  options_.pin_bytes = 2 * g_.block_bytes() * g_.layers;
  Restart();
  MakeSession("two", 2);
  MakeSession("three", 3);  // the same two chunks and one more
  const absl::Status refused = store_->PinSession("three", true);
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("--pin_bytes"), std::string::npos) << refused;
  ASSERT_TRUE(store_->PinSession("two", true).ok());
  EXPECT_TRUE(store_->PinSession("two", true).ok());  // as it is
  Open(kA, "new");
  EXPECT_EQ(store_->PinSession("new", true).code(), StatusCode::kResourceExhausted);  // before it has anything
  EXPECT_EQ(store_->PinSession("three", true).code(), StatusCode::kResourceExhausted);
  ASSERT_TRUE(store_->PinSession("two", false).ok());
  EXPECT_TRUE(store_->PinSession("new", true).ok());
  ASSERT_TRUE(store_->PinSession("two", true).ok());
  WriteAll();
  Restart();
  EXPECT_EQ(store_->PinSession("three", true).code(), StatusCode::kResourceExhausted);  // counted after a restart too
}

// Pinned while it was empty; what it grew to is not kept at the price of everything else.
TEST_F(BlockStoreTest, APinLapsesWhereTheDiskIsFullAndTheQuotaExceeded) {
  const uint64_t chunk_bytes = g_.block_bytes() * g_.layers;
  options_.disk_bytes = 5 * chunk_bytes * 10 / 7 + 10;  // five chunks; pins may have two
  Restart();
  const OpenOutcome grown = Open(kA, "grown");
  ASSERT_TRUE(store_->PinSession("grown", true).ok());
  std::vector<ChunkHash> hashes;
  for (uint32_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(store_->Release(kA, Commit(kA, grown, i)).ok());
    hashes.push_back(Hash(i));
    WriteAll();
  }
  ASSERT_TRUE(store_->UpdateSession(kA, "grown", grown.epoch, hashes, {}).ok());
  ASSERT_TRUE(store_->CloseSession(kA, "grown", grown.epoch).ok());
  EXPECT_TRUE(store_->ListSessions()[0].pinned);
  OpenOutcome other;
  CommitOther("other", 3, &other);
  EXPECT_EQ(store_->stats().budget_evicted_sessions, 1u);
  EXPECT_FALSE(tier_.HasChunk(Hash(3)));
  for (const SessionView& view : store_->ListSessions()) EXPECT_FALSE(view.pinned) << view.name;
}

TEST_F(BlockStoreTest, PinnedSessionsStayInRamAndOnDisk) {
  options_.pinned_sessions = {"system"};
  options_.disk_bytes = 5 * g_.block_bytes() * g_.layers * 10 / 7 + 10;  // five chunks
  Restart();
  MakeSession("system", 1);
  OpenOutcome other;
  const std::vector<ChunkHash> hashes = CommitOther("other", 4, &other);
  const auto got = Fetch(kA, {{Hash(0), 0}, {Hash(0), 1}});
  EXPECT_FALSE(got[0].from_disk || got[1].from_disk);
  ASSERT_TRUE(store_->UpdateSession(kA, "other", other.epoch, hashes, {}).ok());
  ASSERT_TRUE(store_->CloseSession(kA, "other", other.epoch).ok());
  MakeSession("third", 3);  // shares its first chunk with the system prompt
  EXPECT_EQ(store_->stats().budget_evicted_sessions, 1u);
  EXPECT_TRUE(tier_.HasChunk(Hash(0)));
  EXPECT_FALSE(tier_.HasChunk(hashes.back()));
}

}  // namespace
}  // namespace hga
