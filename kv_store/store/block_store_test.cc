#include "kv_store/store/block_store.h"

#include <cstring>

#include "gtest/gtest.h"
#include "kv_store/store/testing_block_store.h"

namespace hga {
namespace {

using absl::StatusCode;

TEST_F(BlockStoreTest, FetchFindsInRamThenOnDisk) {
  MakeSession("s", 2);
  auto got = Fetch(kA, {{Hash(1), 1}});
  ASSERT_TRUE(got[0].status.ok());
  EXPECT_FALSE(got[0].from_disk);
  EXPECT_EQ(memory_[got[0].slot][5], Pattern(1, 1));
  ASSERT_TRUE(store_->Release(kA, {got[0].slot}).ok());
  EXPECT_EQ(store_->DropRam(), 4u);
  for (auto& slot : memory_) slot.assign(slot.size(), 0xee);
  got = Fetch(kA, {{Hash(1), 1}, {Hash(0), 0}, {Hash(7), 0}, {Hash(0), 99}});
  EXPECT_TRUE(got[0].from_disk);
  EXPECT_EQ(memory_[got[0].slot][5], Pattern(1, 1));
  EXPECT_EQ(memory_[got[1].slot][5], Pattern(0, 0));
  EXPECT_EQ(got[2].status.code(), StatusCode::kNotFound);
  EXPECT_EQ(got[3].status.code(), StatusCode::kNotFound);
}

TEST_F(BlockStoreTest, SomeHeadsFromDiskAreForWhoAskedAlone) {
  MakeSession("s", 1);
  EXPECT_FALSE(FetchHeads(kB, {{{Hash(0), 1}, 2}})[0].from_disk);  // in RAM the block is whole
  ASSERT_TRUE(store_->DropRam() > 0);
  for (auto& slot : memory_) slot.assign(slot.size(), 0xee);
  const auto part = FetchHeads(kA, {{{Hash(0), 0}, 2}, {{Hash(0), 0}, 2}});
  const size_t half = g_.block_bytes() / 2;
  for (const FetchOutcome& got : part) {
    ASSERT_TRUE(got.status.ok()) << got.status;
    EXPECT_TRUE(got.from_disk);
    EXPECT_EQ(memory_[got.slot][half - 1], 0xee);
    EXPECT_EQ(memory_[got.slot][half], Pattern(0, 0));
  }
  EXPECT_NE(part[0].slot, part[1].slot);
  const auto whole = FetchHeads(kB, {{{Hash(0), 0}, 3}});  // all that there are
  EXPECT_TRUE(whole[0].from_disk) << "a part was taken for the block";
  EXPECT_EQ(memory_[whole[0].slot][0], Pattern(0, 0));
  EXPECT_EQ(FetchHeads(kA, {{{Hash(0), 0}, 1}})[0].slot, whole[0].slot);
  const auto free = [this] { return store_->stats().slots[static_cast<int>(SlotState::kFree)]; };
  const uint64_t before = free();
  ASSERT_TRUE(store_->Release(kA, {part[0].slot, part[1].slot}).ok());
  EXPECT_EQ(free(), before + 2);
}

TEST_F(BlockStoreTest, SomeHeadsOfWhatIsGoneMeanwhileOrDamaged) {
  MakeSession("s", 1);
  store_->DropRam();
  const uint64_t free = store_->stats().slots[static_cast<int>(SlotState::kFree)];
  std::vector<FetchOutcome> got;
  const auto take = [&](std::vector<FetchOutcome> r) { got = std::move(r); };
  EXPECT_EQ(store_->Fetch(kA, {{{Hash(0), 0}, 4}}, take).status().code(), StatusCode::kInvalidArgument);
  auto reads = store_->Fetch(kA, {{{Hash(0), 0}, 1}}, take);
  ASSERT_TRUE(reads.ok() && reads->size() == 1) << reads.status();
  ASSERT_TRUE(store_->DeleteSession("s").ok());
  FinishReads(*reads);
  EXPECT_EQ(got[0].status.code(), StatusCode::kNotFound);
  MakeSession("t", 2);
  store_->DropRam();
  ASSERT_TRUE(tier_.DamageBlock({Hash(1), 0}, MemoryTier::Damage::kFlippedBit));
  EXPECT_EQ(FetchHeads(kA, {{{Hash(1), 0}, 1}})[0].status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(Fetch(kA, {{Hash(1), 1}})[0].status.code(), StatusCode::kNotFound) << "the chunk is lost";
  reads = store_->Fetch(kB, {{{Hash(0), 0}, 1}}, take);
  store_->QuarantineClient(kB);  // leaves while its block is read
  store_->FreeClient(kB);
  FinishReads(*reads);
  EXPECT_FALSE(got[0].status.ok());
  EXPECT_EQ(store_->stats().slots[static_cast<int>(SlotState::kFree)], free);
}

TEST_F(BlockStoreTest, HeldSlotIsNeverReused) {
  MakeSession("s", 2);
  const auto held = Fetch(kA, {{Hash(0), 0}});
  const OpenOutcome other = Open(kB, "");
  for (int round = 0; round < 5; ++round) {
    const auto slots = store_->Reserve(kB, kSlots - 1);
    ASSERT_TRUE(slots.ok()) << slots.status();
    for (uint32_t slot : *slots) EXPECT_NE(slot, held[0].slot);
    ASSERT_TRUE(store_->Release(kB, *slots).ok());
  }
  EXPECT_EQ(store_->Reserve(kB, kSlots).status().code(), StatusCode::kResourceExhausted);
  const auto asks = store_->TakeReclaims();
  ASSERT_EQ(asks.size(), 1u);
  EXPECT_EQ(asks[0].first, kA);
}

TEST_F(BlockStoreTest, DirtyBlocksAreNotEvictedAndBecomeEvictableOnceDurable) {
  const OpenOutcome session = Open(kA, "s");
  for (uint32_t i = 0; i < 4; ++i) ASSERT_TRUE(store_->Release(kA, Commit(kA, session, i)).ok());
  EXPECT_EQ(store_->Reserve(kA, 2).status().code(), StatusCode::kResourceExhausted);
  auto job = store_->TakeWrite();
  ASSERT_TRUE(job.has_value());
  EXPECT_EQ(store_->Reserve(kA, 2).status().code(), StatusCode::kResourceExhausted);
  ASSERT_TRUE(tier_.Write(job->step).ok());
  store_->FinishWrite({});
  EXPECT_TRUE(store_->Reserve(kA, 2).ok());
}

TEST_F(BlockStoreTest, OpenMatchesLongestPrefixAndPinsIt) {
  MakeSession("s", 3);
  store_->DropRam();
  Fetch(kA, {{Hash(0), 0}, {Hash(0), 1}});
  std::vector<ChunkHash> wanted = HashesUpTo(2);
  wanted.push_back(HashBytes("elsewhere"));
  wanted.push_back(Hash(2));
  const OpenOutcome fork = Open(kB, "fork", wanted);
  EXPECT_EQ(fork.matched, 2u);
  EXPECT_EQ(fork.matched_in_ram, 1u);
  ASSERT_TRUE(store_->DeleteSession("s").ok());
  WriteAll();
  EXPECT_TRUE(Fetch(kB, {{Hash(1), 0}})[0].status.ok());
  EXPECT_EQ(Fetch(kB, {{Hash(2), 0}})[0].status.code(), StatusCode::kNotFound);
  EXPECT_FALSE(tier_.HasBlock({Hash(2), 0}));
}

TEST_F(BlockStoreTest, OneWriterAtATimeAndStaleEpochs) {
  const OpenOutcome first = Open(kA, "s");
  EXPECT_EQ(store_->OpenSession(kB, "s", model_, {}).status().code(), StatusCode::kFailedPrecondition);
  Commit(kA, first, 0);
  ASSERT_TRUE(store_->UpdateSession(kA, "s", first.epoch, HashesUpTo(1), {1, 2}).ok());
  ASSERT_TRUE(store_->CloseSession(kA, "s", first.epoch).ok());
  const OpenOutcome second = Open(kA, "s");
  EXPECT_GT(second.epoch, first.epoch);
  EXPECT_EQ(store_->UpdateSession(kA, "s", first.epoch, {}, {}).code(), StatusCode::kFailedPrecondition);
  const auto slots = store_->Reserve(kA, g_.layers);
  EXPECT_EQ(store_->Commit(kA, Args(first, 1, *slots)).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->CloseSession(kB, "s", second.epoch).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->DeleteSession("s").code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->OpenSession(kA, "../etc", model_, {}).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(BlockStoreTest, NamelessSessionLeavesNothingBehind) {
  const OpenOutcome session = Open(kA, "");
  const auto held = Commit(kA, session, 0);
  WriteAll();
  ASSERT_TRUE(tier_.HasBlock({Hash(0), 1}));
  ASSERT_TRUE(store_->UpdateSession(kA, session.session_id, session.epoch, HashesUpTo(1), {}).ok());
  ASSERT_TRUE(store_->CloseSession(kA, session.session_id, session.epoch).ok());
  WriteAll();
  EXPECT_FALSE(tier_.HasBlock({Hash(0), 1}));
  EXPECT_EQ(store_->stats().chunks, 0u);
  EXPECT_EQ(store_->stats().slots[static_cast<int>(SlotState::kOrphan)], 2u);
  ASSERT_TRUE(store_->Release(kA, held).ok());
  EXPECT_EQ(store_->stats().slots[static_cast<int>(SlotState::kFree)], kSlots);
}

TEST_F(BlockStoreTest, ClosedWhileBeingWrittenIsDeletedAfterwards) {
  const OpenOutcome session = Open(kA, "");
  ASSERT_TRUE(store_->Release(kA, Commit(kA, session, 0)).ok());
  auto job = store_->TakeWrite();
  ASSERT_TRUE(job.has_value());
  ASSERT_TRUE(store_->CloseSession(kA, session.session_id, session.epoch).ok());
  EXPECT_EQ(store_->stats().slots[static_cast<int>(SlotState::kFree)],
            kSlots - 2);  // its bytes are being written
  ASSERT_TRUE(tier_.Write(job->step).ok());
  store_->FinishWrite({});
  WriteAll();
  EXPECT_FALSE(tier_.HasChunk(Hash(0)));
  EXPECT_EQ(store_->stats().slots[static_cast<int>(SlotState::kFree)], kSlots);
}

TEST_F(BlockStoreTest, DeleteKeepsWhatAnotherSessionShares) {
  MakeSession("one", 2);
  MakeSession("two", 1);
  ASSERT_TRUE(store_->DeleteSession("one").ok());
  WriteAll();
  EXPECT_TRUE(tier_.HasChunk(Hash(0)));
  EXPECT_FALSE(tier_.HasChunk(Hash(1)));
  EXPECT_EQ(Tokens("two")->token_ids.size(), g_.chunk_tokens);
  EXPECT_EQ(Tokens("one").status().code(), StatusCode::kNotFound);
}

TEST_F(BlockStoreTest, DuplicateCommitKeepsOneCopy) {
  const OpenOutcome a = Open(kA, "a"), b = Open(kB, "b");
  const auto first = Commit(kA, a, 0);
  EXPECT_EQ(Commit(kB, b, 0), first);
  EXPECT_EQ(store_->stats().slots[static_cast<int>(SlotState::kFree)], kSlots - 2);
  ASSERT_TRUE(store_->Release(kA, first).ok());
  EXPECT_EQ(store_->stats().slots_held, 2u);
  ASSERT_TRUE(store_->Release(kB, first).ok());
  WriteAll();
  store_->DropRam();
  EXPECT_EQ(Commit(kB, b, 0).size(), 2u);  // on disk only: the caller's copy stays
  EXPECT_FALSE(Fetch(kA, {{Hash(0), 0}})[0].from_disk);
}

// Its writer may be reading them.
TEST_F(BlockStoreTest, OfADurableChunkTheCopiesThatAreCommittedLastStay) {
  const OpenOutcome a = Open(kA, "a"), b = Open(kB, "b");
  const auto first = Commit(kA, a, 0);
  WriteAll();
  const auto second = Commit(kB, b, 0);
  for (size_t layer = 0; layer < second.size(); ++layer) EXPECT_NE(second[layer], first[layer]);
  EXPECT_EQ(store_->stats().slots_held, 4u) << "what others read stays as long as they do";
  EXPECT_EQ(Fetch(kA, {{Hash(0), 1}})[0].slot, second[1]);
  ASSERT_TRUE(store_->Release(kA, first).ok());
  EXPECT_EQ(store_->stats().slots[static_cast<int>(SlotState::kFree)], kSlots - 2);
}

TEST_F(BlockStoreTest, CommitDuringADiskReadGivesBothTheSameBlock) {
  MakeSession("s", 1);
  store_->DropRam();
  std::vector<FetchOutcome> got;
  const auto reads =
      store_->Fetch(kA, {{Hash(0), 0}}, [&](std::vector<FetchOutcome> r) { got = std::move(r); });
  ASSERT_EQ(reads->size(), 1u);
  const auto committed = Commit(kB, Open(kB, "t"), 0);
  FinishReads(*reads);
  ASSERT_EQ(got.size(), 1u);
  ASSERT_TRUE(got[0].status.ok()) << got[0].status;
  EXPECT_EQ(got[0].slot, committed[0]);
}

TEST_F(BlockStoreTest, AbsurdRequestsAreRefused) {
  const OpenOutcome s = Open(kA, "s");
  EXPECT_EQ(store_->Reserve(kA, 0).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->Reserve(kA, kMaxReserve + 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->Reserve(99, 1).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->Fetch(kA, std::vector<BlockHeads>(kMaxFetch + 1), [](auto) {}).status().code(),
            StatusCode::kInvalidArgument);
  const auto mine = *store_->Reserve(kA, 2);
  const auto theirs = *store_->Reserve(kB, 2);
  auto code = [&](const std::vector<uint32_t>& slots) {
    return store_->Commit(kA, Args(s, 0, slots)).status().code();
  };
  EXPECT_EQ(code({mine[0]}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mine[0], mine[0]}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mine[0], theirs[0]}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({mine[0], ~0u}), StatusCode::kInvalidArgument);
  CommitArgs wrong = Args(s, 0, mine);
  wrong.token_ids.pop_back();
  EXPECT_EQ(store_->Commit(kA, wrong).status().code(), StatusCode::kInvalidArgument);
  wrong = Args(s, 0, mine);
  wrong.hash = HashBytes("lie");
  EXPECT_EQ(store_->Commit(kA, wrong).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->UpdateSession(kA, "s", s.epoch, {HashBytes("none")}, {}).code(),
            StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->UpdateSession(kA, "s", s.epoch, {}, {1, 2, 3, 4}).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(store_->Release(kA, {~0u, theirs[0]}).ok());
  EXPECT_EQ(store_->stats().unknown_releases, 2u);
  EXPECT_EQ(code(mine), StatusCode::kOk);
}

TEST_F(BlockStoreTest, QuarantinedClientKeepsItsSlotsUntilFreed) {
  const OpenOutcome s = Open(kA, "s");
  Commit(kA, s, 0);
  ASSERT_TRUE(store_->Reserve(kA, 2).ok());
  WriteAll();
  store_->QuarantineClient(kA);
  EXPECT_EQ(store_->stats().sessions, 0u);
  EXPECT_EQ(store_->Reserve(kB, kSlots - 3).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(store_->Reserve(kA, 1).status().code(), StatusCode::kFailedPrecondition);
  store_->FreeClient(kA);
  EXPECT_TRUE(store_->Reserve(kB, kSlots).ok());
}

TEST_F(BlockStoreTest, BadChecksumIsDataLossAndTheChunkNoLongerMatches) {
  MakeSession("s", 2);
  store_->DropRam();
  ASSERT_TRUE(tier_.DamageBlock({Hash(1), 0}));
  EXPECT_EQ(Fetch(kA, {{Hash(1), 0}})[0].status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(store_->stats().checksum_errors, 1u);
  EXPECT_EQ(store_->stats().slots_held, 0u);
  const OpenOutcome again = Open(kA, "s", HashesUpTo(2));
  EXPECT_EQ(again.matched, 1u);
  EXPECT_EQ(Tokens("s")->token_ids.size(),
            2 * g_.chunk_tokens);  // so that it can be computed again
  ASSERT_TRUE(store_->Release(kA, Commit(kA, again, 1)).ok());
  WriteAll();
  store_->DropRam();
  const auto got = Fetch(kA, {{Hash(1), 0}});
  ASSERT_TRUE(got[0].status.ok()) << got[0].status;
  EXPECT_EQ(memory_[got[0].slot][0], Pattern(1, 0));
}

TEST_F(BlockStoreTest, RestartServesOnlyWhatWasDurable) {
  MakeSession("s", 2);
  const OpenOutcome more = Open(kA, "s", HashesUpTo(2));
  Commit(kA, more, 2);
  ASSERT_TRUE(store_->UpdateSession(kA, "s", more.epoch, HashesUpTo(3), {9}).ok());
  const auto lost_step = store_->TakeWrite();  // never reaches the disk
  ASSERT_TRUE(lost_step.has_value());
  WriteStep no_blocks = lost_step->step;
  no_blocks.put_chunks.clear();
  ASSERT_TRUE(tier_.Write(no_blocks).ok());
  Restart();
  const auto stored = Tokens("s");
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->token_ids, std::vector<uint32_t>({0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 9}));
  const OpenOutcome again = Open(kA, "s", HashesUpTo(3));
  EXPECT_EQ(again.matched, 2u);
  EXPECT_GT(again.epoch, more.epoch);
  EXPECT_EQ(memory_[Fetch(kA, {{Hash(1), 1}})[0].slot][3], Pattern(1, 1));
}

TEST_F(BlockStoreTest, RestartDeletesChunksOfNoSession) {
  const OpenOutcome session = Open(kA, "");
  Commit(kA, session, 0);
  WriteAll();
  ASSERT_TRUE(tier_.HasChunk(Hash(0)));
  Restart();
  WriteAll();
  EXPECT_FALSE(tier_.HasChunk(Hash(0)));
}

TEST_F(BlockStoreTest, DurableCallbackComesWithTheWrite) {
  const OpenOutcome session = Open(kA, "s");
  Commit(kA, session, 0);
  int called = 0;
  store_->WhenDurable(Hash(0), [&](absl::Status status) { called += status.ok(); });
  EXPECT_EQ(called, 0);
  WriteAll();
  EXPECT_EQ(called, 1);
}

TEST_F(BlockStoreTest, WhatComesBackSoonAfterItsEvictionIsProtected) {
  MakeSession("hot", 1);  // two blocks
  const std::vector<BlockName> hot = {{Hash(0), 0}, {Hash(0), 1}};
  store_->DropRam();
  const auto use = [&](const std::vector<BlockName>& names) {
    bool from_disk = false;
    for (const FetchOutcome& outcome : Fetch(kA, names)) {
      ASSERT_TRUE(outcome.status.ok());
      from_disk = from_disk || outcome.from_disk;
      ASSERT_TRUE(store_->Release(kA, {outcome.slot}).ok());
    }
    disk_ = from_disk;
  };
  MakeSession("scan", 9);
  store_->DropRam();
  const auto scan = [&](uint32_t first, uint32_t end) {
    for (uint32_t i = first; i < end; ++i) use({{Hash(i), 0}, {Hash(i), 1}});
  };
  use(hot);
  scan(1, 5);  // as large as the arena: pushes the hot blocks out
  use(hot);
  EXPECT_TRUE(disk_);
  scan(5, 9);
  use(hot);
  EXPECT_FALSE(disk_);
}

TEST_F(BlockStoreTest, WrittenDroppedCommittedAndDroppedAgainLeavesNothingOnDisk) {
  const OpenOutcome first = Open(kA, "");
  ASSERT_TRUE(store_->Release(kA, Commit(kA, first, 0)).ok());
  auto job = store_->TakeWrite();
  ASSERT_TRUE(job.has_value());
  ASSERT_TRUE(store_->CloseSession(kA, first.session_id, first.epoch).ok());
  const OpenOutcome second = Open(kA, "");
  ASSERT_TRUE(store_->Release(kA, Commit(kA, second, 0)).ok());
  ASSERT_TRUE(store_->CloseSession(kA, second.session_id, second.epoch).ok());
  ASSERT_TRUE(tier_.Write(job->step).ok());
  store_->FinishWrite({});
  WriteAll();
  EXPECT_TRUE(tier_.ChunksWithBlocks().empty());
  EXPECT_TRUE(tier_.ChunkRecords().empty());
}

TEST_F(BlockStoreTest, AFullDiskIsGivenDeletionsFirst) {
  MakeSession("old", 1);
  const OpenOutcome session = Open(kA, "new", HashesUpTo(1));
  ASSERT_TRUE(store_->Release(kA, Commit(kA, session, 1)).ok());
  auto job = store_->TakeWrite();
  ASSERT_TRUE(job.has_value());
  store_->FailWrite(job->step, absl::ResourceExhaustedError("no space left"));
  EXPECT_TRUE(store_->HasPendingWrites());
  EXPECT_EQ(store_->stats().slots_held, 0u);
  ASSERT_TRUE(store_->CloseSession(kA, "new", session.epoch).ok());  // its chunk goes as well
  ASSERT_TRUE(store_->DeleteSession("old").ok());
  const OpenOutcome third = Open(kA, "third");
  ASSERT_TRUE(store_->Release(kA, Commit(kA, third, 2)).ok());
  job = store_->TakeWrite();
  ASSERT_TRUE(job.has_value());
  EXPECT_TRUE(job->step.put_chunks.empty());
  EXPECT_EQ(job->step.delete_sessions.size(), 2u);
  ASSERT_TRUE(tier_.Write(job->step).ok());
  store_->FinishWrite({});
  WriteAll();
  EXPECT_EQ(tier_.ChunksWithBlocks(), std::vector<ChunkHash>{Hash(2)});
}

TEST_F(BlockStoreTest, SavedIsSaidWithTheStepThatSaves) {
  const OpenOutcome session = Open(kA, "s");
  ASSERT_TRUE(store_->UpdateSession(kA, "s", session.epoch, {}, {1, 2}).ok());
  int saved = 0;
  store_->WhenSaved([&](absl::Status status) { saved += status.ok(); });
  auto job = store_->TakeWrite();
  store_->FailWrite(job->step, absl::UnavailableError("again"));
  EXPECT_EQ(saved, 0);
  WriteAll();
  EXPECT_EQ(saved, 1);
  store_->WhenSaved([&](absl::Status status) { saved += status.ok(); });
  EXPECT_EQ(saved, 2);
}

TEST_F(BlockStoreTest, ForkSharesBlocksAndOutlivesItsSource) {
  MakeSession("s", 2);
  EXPECT_EQ(store_->ForkSession("none", "t").code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->ForkSession("s", "s").code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(store_->ForkSession("s", "../t").code(), StatusCode::kInvalidArgument);
  const uint64_t written = store_->stats().bytes_written;
  ASSERT_TRUE(store_->ForkSession("s", "t").ok());
  WriteAll();
  EXPECT_EQ(store_->stats().bytes_written, written);
  ASSERT_TRUE(store_->DeleteSession("s").ok());
  WriteAll();
  Restart();
  EXPECT_EQ(Tokens("t")->token_ids.size(), 2 * g_.chunk_tokens);
  EXPECT_EQ(Open(kA, "t", HashesUpTo(2)).matched, 2u);
}

TEST_F(BlockStoreTest, DamageInRamIsReplacedFromDiskOrTheChunkIsLost) {
  options_.verify_ram_every = 1;
  Restart();
  MakeSession("s", 1);
  auto got = Fetch(kA, {{Hash(0), 1}});
  memory_[got[0].slot][3] ^= 4;
  ASSERT_TRUE(store_->Release(kA, {got[0].slot}).ok());
  got = Fetch(kA, {{Hash(0), 1}});
  ASSERT_TRUE(got[0].status.ok()) << got[0].status;
  EXPECT_TRUE(got[0].from_disk);
  EXPECT_EQ(memory_[got[0].slot][3], Pattern(0, 1));
  EXPECT_EQ(store_->stats().ram_checksum_errors, 1u);

  const OpenOutcome session = Open(kA, "t", HashesUpTo(1));
  const auto held = Commit(kA, session, 1);
  memory_[held[0]][3] ^= 4;
  EXPECT_EQ(Fetch(kA, {{Hash(1), 0}})[0].status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(Fetch(kA, {{Hash(1), 0}})[0].status.code(), StatusCode::kNotFound);
}

TEST_F(BlockStoreTest, DamagedManifestDoesNotTakeItsChunksAlong) {
  MakeSession("s", 2);
  ASSERT_TRUE(tier_.DamageSession("s"));
  Restart();
  WriteAll();
  EXPECT_EQ(store_->stats().damaged_records, 1u);
  EXPECT_EQ(Tokens("s").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(Open(kA, "s", HashesUpTo(2)).matched, 2u);  // the same text again: nothing to compute
  Restart();
  WriteAll();
  EXPECT_EQ(store_->stats().garbage_chunks, 2u);
  EXPECT_TRUE(tier_.ChunksWithBlocks().empty());
}

}  // namespace
}  // namespace hga
