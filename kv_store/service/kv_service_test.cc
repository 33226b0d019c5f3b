// The daemon's parts together over a real Unix socket, a real arena and a real RocksDB.

#include <chrono>
#include <cstring>

#include "common/rpc/channel.h"
#include "gtest/gtest.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"

namespace hga {
namespace {

using absl::StatusCode;

KvGeometry SmallGeometry() {
  KvGeometry g;
  g.layers = 3;
  g.query_heads = 2;
  g.kv_heads = 1;
  g.head_dim = 16;
  return g;
}

class KvServiceTest : public ::testing::Test {
 protected:
  std::unique_ptr<GrpcKvClient> Attach(const KvGeometry& g) {
    auto client = GrpcKvClient::Attach({daemon_.address(), "test", g});
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }
  std::vector<ChunkHash> Hashes(uint32_t chunks) const {
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < chunks * g_.chunk_tokens; ++i) tokens.push_back(i);
    return ChunkHashes(model_, g_, tokens);
  }
  absl::StatusOr<std::vector<HeldBlock>> Commit(GrpcKvClient* client, const OpenedSession& session,
                                                uint32_t i) {
    CommitChunk chunk;
    chunk.hash = Hashes(i + 1)[i];
    chunk.parent = i == 0 ? SeedHash(model_, g_) : Hashes(i)[i - 1];
    for (uint32_t t = 0; t < g_.chunk_tokens; ++t) chunk.token_ids.push_back(i * g_.chunk_tokens + t);
    auto blocks = client->Reserve(g_.layers);
    // Backpressure while the disk catches up.
    for (int tries = 0; absl::IsResourceExhausted(blocks.status()) && tries < 200; ++tries) {
      blocks = client->Reserve(g_.layers);
    }
    if (!blocks.ok()) return blocks.status();
    for (uint32_t l = 0; l < g_.layers; ++l)
      std::memset((*blocks)[l].data(), Pattern(i, l), g_.block_bytes());
    chunk.blocks = *std::move(blocks);
    chunk.summary_method = "mean";
    chunk.summary = "s";
    return client->Commit(session, std::move(chunk));
  }
  static int Pattern(uint32_t i, uint32_t layer) { return static_cast<int>((i * 5 + layer + 1) & 0xff); }
  bool Right(const FetchedBlock& got, uint32_t i, uint32_t layer) const {
    if (!got.status.ok()) return false;
    const std::string expected(g_.block_bytes(), static_cast<char>(Pattern(i, layer)));
    return std::memcmp(got.block.data(), expected.data(), expected.size()) == 0;
  }
  // All blocks of `chunks` chunks, one chunk at a time.
  bool AllRight(GrpcKvClient* client, uint32_t chunks) {
    for (uint32_t i = 0; i < chunks; ++i) {
      std::vector<BlockName> names;
      for (uint32_t l = 0; l < g_.layers; ++l) names.push_back({Hashes(i + 1)[i], l});
      const auto got = client->Fetch(names);
      if (!got.ok()) return false;
      for (uint32_t l = 0; l < g_.layers; ++l) {
        if (!Right((*got)[l], i, l)) return false;
      }
    }
    return true;
  }

  const KvGeometry g_ = SmallGeometry();
  const ModelFingerprint model_ = HashBytes("model");
  TestingDaemon daemon_;
};

TEST_F(KvServiceTest, DataLargerThanTheArenaIsSpilledAndComesBackIdentical) {
  ASSERT_TRUE(daemon_.Start(24 * 4096).ok());
  const auto client = Attach(g_);
  const auto session = client->OpenSession("big", model_, {});
  constexpr uint32_t kChunks = 40;  // 120 blocks, 24 slots
  for (uint32_t i = 0; i < kChunks; ++i) {
    const auto held = Commit(client.get(), *session, i);
    ASSERT_TRUE(held.ok()) << held.status();
  }
  EXPECT_TRUE(AllRight(client.get(), kChunks));
  EXPECT_GT(client->GetStats()->evictions, 0u);
}

TEST_F(KvServiceTest, RestartKeepsWhatWasFlushedAndTheClientAttachesAgain) {
  ASSERT_TRUE(daemon_.Start(64 * 4096).ok());
  const auto client = Attach(g_);
  const auto session = client->OpenSession("book", model_, {});
  auto held = Commit(client.get(), *session, 0);
  ASSERT_TRUE(held.ok());
  ASSERT_TRUE(Commit(client.get(), *session, 1).ok());
  ASSERT_TRUE(client->UpdateSession(*session, Hashes(2), {7}).ok());
  daemon_.Stop(/*flush=*/true);
  EXPECT_TRUE(Eventually([&] { return !client->connected(); }));
  EXPECT_EQ(client->Reserve(1).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(reinterpret_cast<uint8_t*>((*held)[2].data())[9], Pattern(0, 2));  // the old mapping lives on

  ASSERT_TRUE(daemon_.Start(64 * 4096).ok());
  ASSERT_TRUE(Eventually([&] { return client->connected(); }));
  EXPECT_EQ(client->UpdateSession(*session, {}, {}).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(client->GetSession("book", model_)->size(), 2 * g_.chunk_tokens + 1);
  const auto again = client->OpenSession("book", model_, Hashes(3));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->matched_chunks, 2u);
  EXPECT_EQ(again->matched_in_ram, 0u);
  EXPECT_GT(again->epoch, session->epoch);
  EXPECT_TRUE(AllRight(client.get(), 2));
  EXPECT_EQ(reinterpret_cast<uint8_t*>((*held)[2].data())[9], Pattern(0, 2));
}

TEST_F(KvServiceTest, CommitAckDiskMeansDurable) {
  ASSERT_TRUE(daemon_.Start(64 * 4096, /*commit_waits_for_disk=*/true).ok());
  const auto client = Attach(g_);
  const auto session = client->OpenSession("book", model_, {});
  ASSERT_TRUE(Commit(client.get(), *session, 0).ok());
  EXPECT_EQ(client->GetStats()->chunks_durable, 1u);
  EXPECT_EQ(client->GetStats()->slots_dirty, 0u);
}

TEST_F(KvServiceTest, HoldsOfAClientThatLeftAreFreedWithItsMapping) {
  ASSERT_TRUE(daemon_.Start(16 * 4096).ok());
  const auto watcher = Attach(g_);
  auto client = Attach(g_);
  ASSERT_TRUE(client->OpenSession("s", model_, {}).ok());
  auto blocks = client->Reserve(10);
  ASSERT_TRUE(blocks.ok());
  client.reset();  // the stream ends, the mapping stays with the blocks
  ASSERT_TRUE(Eventually([&] { return daemon_.loop()->GetStats().clients_quarantined == 1; }));
  EXPECT_EQ(watcher->Reserve(10).status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(watcher->OpenSession("s", model_, {}).ok());
  blocks->clear();
  EXPECT_TRUE(Eventually([&] { return daemon_.loop()->GetStats().clients_quarantined == 0; }));
  EXPECT_TRUE(watcher->Reserve(10).ok());
}

TEST_F(KvServiceTest, ShortageAsksTheHoldersBack) {
  ASSERT_TRUE(daemon_.Start(16 * 4096).ok());
  const auto holder = Attach(g_);
  const auto other = Attach(g_);
  const auto session = holder->OpenSession("s", model_, {});
  std::vector<std::vector<HeldBlock>> held;
  for (uint32_t i = 0; i < 5; ++i) {
    auto blocks = Commit(holder.get(), *session, i);
    ASSERT_TRUE(blocks.ok());
    held.push_back(*std::move(blocks));
  }
  EXPECT_EQ(other->Reserve(8).status().code(), StatusCode::kResourceExhausted);
  uint32_t asked = 0;
  EXPECT_TRUE(Eventually([&] { return (asked += holder->TakeReclaim()) > 0; }));
}

TEST_F(KvServiceTest, ShapesDoNotMix) {
  ASSERT_TRUE(daemon_.Start(64 * 4096).ok());
  const auto client = Attach(g_);
  KvGeometry other = g_;
  other.head_dim = 32;
  const auto refused = GrpcKvClient::Attach({daemon_.address(), "other", other});
  EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition) << refused.status();
  const auto router = Attach(KvGeometry());
  ASSERT_NE(router, nullptr);
  EXPECT_EQ(router->Reserve(1).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(router->GetStats().ok());
}

TEST_F(KvServiceTest, AttachToNobodyIsUnavailable) {
  GrpcKvClientOptions options{daemon_.address(), "test", g_};
  options.attach_timeout_ms = 50;
  EXPECT_EQ(GrpcKvClient::Attach(options).status().code(), StatusCode::kUnavailable);
}

TEST_F(KvServiceTest, GarbageOnTheWireIsRefused) {
  ASSERT_TRUE(daemon_.Start(64 * 4096).ok());
  const auto stub = kv_store::v1::KvStore::NewStub(Connect(daemon_.address()));
  auto code = [&](auto method, const auto& request, auto response) {
    grpc::ClientContext context;
    return (stub.get()->*method)(&context, request, &response).error_code();
  };
  using Stub = kv_store::v1::KvStore::Stub;
  kv_store::v1::OpenSessionRequest open;
  open.set_model_fingerprint("short");
  EXPECT_EQ(code(&Stub::OpenSession, open, kv_store::v1::OpenSessionResponse()),
            grpc::StatusCode::INVALID_ARGUMENT);
  kv_store::v1::FetchRequest fetch;
  fetch.add_blocks()->set_chunk_hash("x");
  EXPECT_EQ(code(&Stub::Fetch, fetch, kv_store::v1::FetchResponse()), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(&Stub::Commit, kv_store::v1::CommitRequest(), kv_store::v1::CommitResponse()),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(&Stub::Reserve, kv_store::v1::ReserveRequest(), kv_store::v1::ReserveResponse()),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(KvServiceTest, MetricsFollowTheStore) {
  ASSERT_TRUE(daemon_.Start(64 * 4096).ok());
  const auto client = Attach(g_);
  const auto session = client->OpenSession("s", model_, {});
  ASSERT_TRUE(Commit(client.get(), *session, 0).ok());
  ASSERT_TRUE(AllRight(client.get(), 1));
  auto value = [&](const std::string& name) {
    for (const auto& family : daemon_.registry()->Collect()) {
      if (family.name != name) continue;
      EXPECT_FALSE(family.help.empty());
      double sum = 0;
      for (const auto& metric : family.metric) sum += metric.counter.value + metric.gauge.value;
      return sum;
    }
    return -1.0;
  };
  EXPECT_TRUE(Eventually([&] { return value("hga_kv_store_fetched_blocks_total") == 3; }));
  EXPECT_TRUE(Eventually([&] { return value("hga_kv_store_written_chunks_total") == 1; }));
  EXPECT_EQ(value("hga_kv_store_slots"), 64);
}

}  // namespace
}  // namespace hga
