// A BlockStore for tests, with its disk work done by hand.
#ifndef HGA_KV_STORE_STORE_TESTING_BLOCK_STORE_H_
#define HGA_KV_STORE_STORE_TESTING_BLOCK_STORE_H_

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kv_store/store/block_store.h"
#include "kv_store/tier/memory_tier.h"
#include "kv_store/tier/small_geometry.h"

namespace hga {

// Disk work is done at the moment the test chooses.
class BlockStoreTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kSlots = 8;
  static constexpr ClientId kA = 11, kB = 22;

  void SetUp() override { Restart(); }

  void Restart() {
    store_ = std::make_unique<BlockStore>(options_);
    ASSERT_TRUE(store_->Load(&tier_).ok());
    ASSERT_TRUE(tier_.SetGeometry(g_).ok());
    memory_.assign(kSlots, std::vector<uint8_t>(g_.block_bytes()));
    store_->SetSlots(g_, kSlots, [this](uint32_t slot) { return memory_[slot].data(); });
    store_->AddClient(kA);
    store_->AddClient(kB);
  }

  OpenOutcome Open(ClientId client, const std::string& name, const std::vector<ChunkHash>& chunks = {}) {
    auto opened = store_->OpenSession(client, name, model_, chunks);
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *opened : OpenOutcome();
  }

  absl::StatusOr<StoredTokens> Tokens(const std::string& session) {
    const auto stored = store_->GetSession(session);
    if (!stored.ok()) return stored.status();
    return ReadTokens(*stored, &tier_);
  }

  // Chunk number i of the sequence 0, 0, 0, 0, 1, 1, 1, 1, ...
  ChunkHash Hash(uint32_t i) const { return HashesUpTo(i + 1).back(); }
  std::vector<ChunkHash> HashesUpTo(uint32_t chunks) const {
    std::vector<uint32_t> tokens;
    for (uint32_t t = 0; t < chunks * g_.chunk_tokens; ++t) tokens.push_back(t / g_.chunk_tokens);
    return ChunkHashes(model_, g_, tokens);
  }

  CommitArgs Args(const OpenOutcome& session, uint32_t i, const std::vector<uint32_t>& slots) {
    CommitArgs args;
    args.session_id = session.session_id;
    args.epoch = session.epoch;
    args.parent = i == 0 ? SeedHash(model_, g_) : Hash(i - 1);
    args.token_ids.assign(g_.chunk_tokens, i);
    args.hash = Hash(i);
    args.slots = slots;
    for (uint32_t slot : slots) {
      if (slot >= kSlots) {
        args.checksums.push_back(0);
        continue;
      }
      args.checksums.push_back(BlockChecksum(memory_[slot].data(), g_.block_bytes()));
    }
    args.summary = {"mean", "summary"};
    return args;
  }

  // Reserves, writes, commits chunk i.
  std::vector<uint32_t> Commit(ClientId client, const OpenOutcome& session, uint32_t i) {
    const auto slots = store_->Reserve(client, g_.layers);
    EXPECT_TRUE(slots.ok()) << slots.status();
    if (!slots.ok()) return {};
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      std::memset(memory_[(*slots)[layer]].data(), Pattern(i, layer), g_.block_bytes());
    }
    const auto outcome = store_->Commit(client, Args(session, i, *slots));
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    return outcome.ok() ? outcome->slots : std::vector<uint32_t>();
  }
  static uint8_t Pattern(uint32_t chunk, uint32_t layer) {
    return static_cast<uint8_t>(chunk * 16 + layer + 1);
  }

  void WriteAll() {
    while (auto job = store_->TakeWrite()) {
      ASSERT_TRUE(tier_.Write(job->step).ok());
      store_->FinishWrite({});
    }
  }

  std::vector<FetchOutcome> Fetch(ClientId client, const std::vector<BlockName>& names) {
    return FetchHeads(client, WholeBlocks(names));
  }
  std::vector<FetchOutcome> FetchHeads(ClientId client, const std::vector<BlockHeads>& wanted) {
    std::vector<FetchOutcome> out;
    const auto reads = store_->Fetch(client, wanted, [&](std::vector<FetchOutcome> r) { out = std::move(r); });
    EXPECT_TRUE(reads.ok()) << reads.status();
    if (reads.ok()) FinishReads(*reads);
    EXPECT_EQ(out.size(), wanted.size());
    out.resize(wanted.size());
    return out;
  }
  void FinishReads(const std::vector<DiskRead>& reads) {
    for (const DiskRead& read : reads) {
      BlockRead r{read.name, memory_[read.slot].data()};
      r.heads = read.heads;
      tier_.ReadBlocks(absl::MakeSpan(&r, 1));
      store_->FinishRead(read.slot, r.status, r.checksum);
    }
  }

  // A session of `chunks` chunks, durable, closed, held by nobody.
  void MakeSession(const std::string& name, uint32_t chunks) {
    const OpenOutcome session = Open(kA, name, HashesUpTo(chunks));
    for (uint32_t i = session.matched; i < chunks; ++i) {
      ASSERT_TRUE(store_->Release(kA, Commit(kA, session, i)).ok());
      WriteAll();
    }
    ASSERT_TRUE(store_->UpdateSession(kA, name, session.epoch, HashesUpTo(chunks), {}).ok());
    ASSERT_TRUE(store_->CloseSession(kA, name, session.epoch).ok());
    WriteAll();
  }

  // Commits chunks that no other session has to a session that stays open.
  std::vector<ChunkHash> CommitOther(const std::string& name, size_t chunks, OpenOutcome* opened) {
    *opened = Open(kA, name);
    const std::vector<uint32_t> tokens(g_.chunk_tokens * chunks, 50);
    const std::vector<ChunkHash> hashes = ChunkHashes(model_, g_, tokens);
    for (size_t i = 0; i < hashes.size(); ++i) {
      const auto slots = store_->Reserve(kA, g_.layers);
      EXPECT_TRUE(slots.ok()) << slots.status();
      CommitArgs args = Args(*opened, 0, *slots);
      args.parent = i == 0 ? SeedHash(model_, g_) : hashes[i - 1];
      args.token_ids.assign(g_.chunk_tokens, 50);
      args.hash = hashes[i];
      const auto committed = store_->Commit(kA, args);
      EXPECT_TRUE(committed.ok()) << committed.status();
      EXPECT_TRUE(store_->Release(kA, committed->slots).ok());
      WriteAll();
    }
    return hashes;
  }

  const KvGeometry g_ = SmallGeometry();
  const ModelFingerprint model_ = HashBytes("model");
  BlockStoreOptions options_;
  bool disk_ = false;  // the last use read from disk
  MemoryTier tier_;
  std::vector<std::vector<uint8_t>> memory_;
  std::unique_ptr<BlockStore> store_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_STORE_TESTING_BLOCK_STORE_H_
