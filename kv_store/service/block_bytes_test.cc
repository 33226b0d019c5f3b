// Blocks as bytes against the real store: what is refused, what is repaired, and that no slot stays behind.
#include "kv_store/service/block_bytes.h"

#include <deque>
#include <string>

#include "gtest/gtest.h"
#include "kv_store/service/testing_daemon.h"

namespace hga {
namespace {

namespace pb = kv_store::v1;
using absl::StatusCode;

class BlockBytesTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kSlots = 16;

  void SetUp() override {
    ASSERT_TRUE(daemon_.Start(kSlots * 4096).ok());
    const auto client = loop()->Attach("test", g_, /*map_arena=*/false);
    ASSERT_TRUE(client.ok()) << client.status();
    EXPECT_EQ(client->arena_path, "");
    client_ = client->id;
    epoch_ = loop()->OpenSession(client_, "s", model_, {})->epoch;
  }

  StoreLoop* loop() { return daemon_.loop(); }
  std::string Block(uint32_t layer) const { return std::string(g_.block_bytes(), static_cast<char>(layer + 1)); }

  // A chunk as it is sent, right in every part.
  std::deque<pb::PutBlocksRequest> Parts() const {
    std::deque<pb::PutBlocksRequest> parts(1 + g_.layers);
    pb::CommitRequest* chunk = parts[0].mutable_commit();
    chunk->set_client_id(client_);
    chunk->set_session_id("s");
    chunk->set_epoch(epoch_);
    const std::vector<uint32_t> tokens(g_.chunk_tokens, 7);
    chunk->set_chunk_hash(hash_.ToBytes());
    chunk->set_parent_hash(SeedHash(model_, g_).ToBytes());
    chunk->mutable_token_ids()->Add(tokens.begin(), tokens.end());
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      parts[1 + layer].set_block(Block(layer));
      chunk->add_checksums(BlockChecksum(Block(layer).data(), g_.block_bytes()));
    }
    return parts;
  }
  StatusCode Put(std::deque<pb::PutBlocksRequest> parts) {
    const auto outcome = ReceiveBlocks(loop(), [&](pb::PutBlocksRequest* part) {
      if (parts.empty()) return false;
      *part = parts.front();
      parts.pop_front();
      return true;
    });
    EXPECT_TRUE(loop()->Flush(/*drop_ram=*/false, std::chrono::seconds(10)).ok());  // write-back holds slots too
    const StoreStats stats = loop()->GetStats();
    EXPECT_EQ(stats.slots_held, 0u);
    EXPECT_EQ(stats.slots[static_cast<int>(SlotState::kReserved)], 0u);
    return outcome.status().code();
  }
  std::vector<pb::FetchedBytes> Get(const std::vector<BlockName>& names) {
    std::vector<pb::FetchedBytes> blocks;
    const absl::Status status = SendBlocks(loop(), client_, names, [&](const pb::FetchedBytes& block) {
      EXPECT_EQ(loop()->GetStats().slots_held, 0u);  // while it is sent
      blocks.push_back(block);
      return true;
    });
    EXPECT_TRUE(status.ok()) << status;
    return blocks;
  }

  const KvGeometry g_ = GeometryOfPages();
  const ModelFingerprint model_ = HashBytes("model");
  TestingDaemon daemon_;
  ClientId client_ = 0;
  uint64_t epoch_ = 0;
  const ChunkHash hash_ = NextChunkHash(SeedHash(model_, g_), std::vector<uint32_t>(64, 7));
};

TEST_F(BlockBytesTest, WhatIsPutComesBackFromRamAndFromDisk) {
  ASSERT_EQ(Put(Parts()), StatusCode::kOk);
  ASSERT_EQ(Put(Parts()), StatusCode::kOk);  // again: a duplicate
  for (const auto tier : {pb::FetchResult::TIER_RAM, pb::FetchResult::TIER_DISK}) {
    const auto blocks = Get({{hash_, 2}, {hash_, 0}, {HashBytes("no"), 0}, {hash_, 3}});
    ASSERT_EQ(blocks.size(), 4u);
    EXPECT_EQ(blocks[0].data(), Block(2));
    EXPECT_EQ(blocks[0].checksum(), BlockChecksum(Block(2).data(), g_.block_bytes()));
    EXPECT_EQ(blocks[0].tier(), tier);
    EXPECT_EQ(blocks[1].data(), Block(0));
    EXPECT_EQ(blocks[2].code(), static_cast<int>(StatusCode::kNotFound));
    EXPECT_EQ(blocks[3].code(), static_cast<int>(StatusCode::kNotFound));
    ASSERT_TRUE(loop()->Flush(/*drop_ram=*/true, std::chrono::seconds(10)).ok());
  }
}

TEST_F(BlockBytesTest, WhatIsNotWholeIsRefused) {
  auto parts = Parts();
  parts.pop_front();
  EXPECT_EQ(Put(parts), StatusCode::kInvalidArgument);  // no chunk
  EXPECT_EQ(Put({}), StatusCode::kInvalidArgument);
  parts = Parts();
  parts.pop_back();
  EXPECT_EQ(Put(parts), StatusCode::kInvalidArgument);  // a block is missing
  parts = Parts();
  parts.push_back(parts.back());
  EXPECT_EQ(Put(parts), StatusCode::kInvalidArgument);  // one too many
  parts = Parts();
  parts[2].mutable_block()->pop_back();
  EXPECT_EQ(Put(parts), StatusCode::kInvalidArgument);
  parts = Parts();
  (*parts[2].mutable_block())[5] ^= 1;
  EXPECT_EQ(Put(parts), StatusCode::kDataLoss);
  parts = Parts();
  parts[0].mutable_commit()->add_slots(3);
  EXPECT_EQ(Put(parts), StatusCode::kInvalidArgument);
  parts = Parts();
  parts[0].mutable_commit()->add_checksums(3);
  EXPECT_EQ(Put(parts), StatusCode::kInvalidArgument);
  parts = Parts();
  parts[0].mutable_commit()->set_epoch(epoch_ + 1);
  EXPECT_EQ(Put(parts), StatusCode::kFailedPrecondition);
  parts = Parts();
  parts[0].mutable_commit()->set_client_id(client_ + 1);
  EXPECT_EQ(Put(parts), StatusCode::kFailedPrecondition);
  EXPECT_EQ(loop()->GetStats().chunks, 0u);
}

TEST_F(BlockBytesTest, ADamagedCopyInRamIsReadFromDisk) {
  ASSERT_EQ(Put(Parts()), StatusCode::kOk);
  ASSERT_TRUE(loop()->Flush(/*drop_ram=*/false, std::chrono::seconds(10)).ok());
  {
    const auto transfer = loop()->BeginTransfer(client_);
    const auto held = loop()->Fetch(client_, {{hash_, 1}});
    (*transfer)->Slot((*held)[0].slot)[100] ^= 1;
    ASSERT_TRUE(loop()->Release(client_, {(*held)[0].slot}).ok());
  }
  const auto blocks = Get({{hash_, 0}, {hash_, 1}});
  EXPECT_EQ(blocks[1].data(), Block(1));
  EXPECT_EQ(blocks[1].tier(), pb::FetchResult::TIER_DISK);
  EXPECT_EQ(loop()->GetStats().ram_checksum_errors, 1u);
}

TEST_F(BlockBytesTest, SlotsStayWithATransferThatOutlivesItsClient) {
  auto transfer = loop()->BeginTransfer(client_);
  ASSERT_TRUE(transfer.ok());
  ASSERT_TRUE(loop()->Reserve(client_, 4).ok());
  loop()->Detach(client_);
  EXPECT_EQ(loop()->GetStats().slots[static_cast<int>(SlotState::kReserved)], 4u);
  EXPECT_EQ(loop()->BeginTransfer(client_).status().code(), StatusCode::kFailedPrecondition);
  transfer->reset();
  EXPECT_EQ(loop()->GetStats().slots[static_cast<int>(SlotState::kReserved)], 0u);
}

TEST_F(BlockBytesTest, TransfersOfOneClientAreBounded) {
  std::vector<std::unique_ptr<Transfer>> transfers;
  absl::Status status;
  while (status.ok() && transfers.size() < 1000) {
    auto transfer = loop()->BeginTransfer(client_);
    status = transfer.status();
    if (transfer.ok()) transfers.push_back(*std::move(transfer));
  }
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace hga
