// Slots and blocks over gRPC beside what conformance_test asks of every client: a store that restarts, and one that is
// short of slots.
#include <cstring>

#include "gtest/gtest.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"

namespace hga {
namespace {

using absl::StatusCode;

class GrpcKvBlocksTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kArena = 1 << 20;  // 256 slots

  void SetUp() override {
    ASSERT_TRUE(daemon_.Start(kArena).ok());
    auto client = GrpcKvClient::Attach({daemon_.address(), "test", g_});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }
  void TearDown() override { client_.reset(); }

  void Restart() {
    daemon_.Stop(/*flush=*/false);
    ASSERT_TRUE(daemon_.Start(kArena).ok());
    ASSERT_TRUE(Eventually([&] { return client_->connected() && client_->GetStats().ok(); }));
  }
  CommitChunk Chunk(std::vector<HeldBlock> blocks) const {
    CommitChunk chunk;
    chunk.parent = SeedHash(model_, g_);
    chunk.token_ids.assign(g_.chunk_tokens, 7);
    chunk.hash = NextChunkHash(chunk.parent, chunk.token_ids);
    chunk.blocks = std::move(blocks);
    chunk.summary_method = "mean";
    chunk.summary = "s";
    return chunk;
  }
  std::vector<HeldBlock> Reserve(uint32_t count) {
    auto blocks = client_->Reserve(count);
    EXPECT_TRUE(blocks.ok()) << blocks.status();
    return blocks.ok() ? *std::move(blocks) : std::vector<HeldBlock>();
  }
  bool AllFree() {
    return Eventually([&] {
      const auto stats = client_->GetStats();
      return stats.ok() && stats->slots_free == stats->slots_total && stats->slots_held == 0;
    });
  }

  const KvGeometry g_ = GeometryOfPages();
  const ModelFingerprint model_ = HashBytes("model");
  TestingDaemon daemon_;
  std::unique_ptr<GrpcKvClient> client_;
};

TEST_F(GrpcKvBlocksTest, WhatWasReservedBeforeARestartIsNotCommitted) {
  std::vector<HeldBlock> blocks = Reserve(g_.layers);
  for (const HeldBlock& block : blocks) std::memset(block.data(), 5, g_.block_bytes());
  Restart();
  const std::string expected(g_.block_bytes(), '\5');
  EXPECT_EQ(std::memcmp(blocks[0].data(), expected.data(), expected.size()), 0) << "the old mapping stays";
  const auto session = client_->OpenSession("s", model_, {});
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(client_->Commit(*session, Chunk(std::move(blocks))).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(AllFree());
}

TEST_F(GrpcKvBlocksTest, AReleaseIsOfTheStoreThatGrantedIt) {
  std::vector<HeldBlock> old = Reserve(2);
  Restart();
  const std::vector<HeldBlock> now = Reserve(2);
  old.clear();
  const std::vector<HeldBlock> more = Reserve(254);
  EXPECT_EQ(client_->Reserve(1).status().code(), StatusCode::kResourceExhausted)
      << "a slot that is held was given away";
}

TEST_F(GrpcKvBlocksTest, ReserveTakesWhatIsJustBeingGivenUp) {
  for (int i = 0; i < 20; ++i) {
    std::vector<HeldBlock> all = Reserve(256);
    ASSERT_EQ(all.size(), 256u) << i;
  }
  EXPECT_TRUE(AllFree());
}

TEST_F(GrpcKvBlocksTest, AChunkWithAHoleIsRefusedAndItsSlotsComeBack) {
  const auto session = client_->OpenSession("s", model_, {});
  ASSERT_TRUE(session.ok());
  std::vector<HeldBlock> blocks = Reserve(g_.layers);
  blocks[1].Reset();
  EXPECT_EQ(client_->Commit(*session, Chunk(std::move(blocks))).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(AllFree());
}

TEST_F(GrpcKvBlocksTest, WithoutAGeometryThereAreNoBlocks) {
  GrpcKvClientOptions options;
  options.address = daemon_.address();
  options.client_name = "sessions only";
  auto client = GrpcKvClient::Attach(options);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ((*client)->Reserve(1).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ((*client)->Fetch({{HashBytes("x"), 0}}).status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace hga
