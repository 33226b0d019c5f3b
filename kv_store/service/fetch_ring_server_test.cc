// Fetching over the ring against the real store: what goes over it, what does not, and what a broken one comes to.
#include "kv_store/service/fetch_ring_server.h"

#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "common/rpc/channel.h"
#include "gtest/gtest.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"

namespace hga {
namespace {

namespace pb = kv_store::v1;
using absl::StatusCode;

constexpr size_t kState = 64;  // offset of the ring's state, as ring.h documents it

class FetchRingServerTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kChunks = 8;

  void SetUp() override { ASSERT_TRUE(daemon_.Start(64 * 4096).ok()); }

  std::unique_ptr<GrpcKvClient> Attach(bool fetch_ring = true) {
    GrpcKvClientOptions options{daemon_.address(), "test", g_};
    options.fetch_ring = fetch_ring;
    auto client = GrpcKvClient::Attach(options);
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }
  // kChunks of them, and the names of their blocks.
  std::vector<BlockName> Write(GrpcKvClient* client) {
    const auto session = client->OpenSession("s", model_, {});
    const std::vector<uint32_t> tokens(kChunks * g_.chunk_tokens, 7);
    const std::vector<ChunkHash> hashes = ChunkHashes(model_, g_, tokens);
    std::vector<BlockName> names;
    for (uint32_t i = 0; i < kChunks; ++i) {
      CommitChunk chunk{hashes[i], i == 0 ? SeedHash(model_, g_) : hashes[i - 1],
                        std::vector<uint32_t>(g_.chunk_tokens, 7), *client->Reserve(g_.layers), "mean", "s"};
      for (HeldBlock& block : chunk.blocks) std::memset(block.data(), names.size() + 1, g_.block_bytes());
      EXPECT_TRUE(client->Commit(*session, std::move(chunk)).ok());
      for (uint32_t layer = 0; layer < g_.layers; ++layer) names.push_back({hashes[i], layer});
    }
    EXPECT_TRUE(client->UpdateSession(*session, hashes, {}).ok());
    return names;
  }
  bool FetchedWell(GrpcKvClient* client, const std::vector<BlockName>& names) {
    const auto got = client->Fetch(names);
    if (!got.ok()) return false;
    for (size_t i = 0; i < names.size(); ++i) {
      const std::string expected(g_.block_bytes(), static_cast<char>(i / g_.layers * g_.layers + 1));
      if (!(*got)[i].status.ok() || std::memcmp((*got)[i].block.data(), expected.data(), expected.size()) != 0) {
        return false;
      }
    }
    return true;
  }
  double Exchanges() const {
    for (const auto& family : daemon_.registry()->Collect()) {
      if (family.name == "hga_kv_store_ring_exchanges_total") return family.metric.at(0).counter.value;
    }
    return -1;
  }
  std::vector<std::string> RingFiles() const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(daemon_.dir())) {
      if (entry.path().filename().string().rfind("arena.ring-", 0) == 0) files.push_back(entry.path());
    }
    return files;
  }

  const KvGeometry g_ = GeometryOfPages();
  const ModelFingerprint model_ = HashBytes("model");
  TestingDaemon daemon_;
};

TEST_F(FetchRingServerTest, FetchesAndReleasesGoOverIt) {
  const auto client = Attach();
  const std::vector<BlockName> names = Write(client.get());
  ASSERT_TRUE(FetchedWell(client.get(), names));
  EXPECT_GE(Exchanges(), 1);
  EXPECT_TRUE(Eventually([&] { return daemon_.loop()->GetStats().slots_held == 0; }));
  EXPECT_GE(Exchanges(), 2);
  ASSERT_EQ(RingFiles().size(), 1u);
  struct stat file;
  ASSERT_EQ(::stat(RingFiles()[0].c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(FetchRingServerTest, WhatIsGivenUpGoesAlongWithTheNextFetch) {
  const auto client = Attach();
  const std::vector<BlockName> names = Write(client.get());
  ASSERT_TRUE(Eventually([&] { return daemon_.loop()->GetStats().slots_held == 0; }));
  auto first = client->Fetch({names[0]});
  const auto second = client->Fetch({names[1]});
  (*first)[0].block.Reset();
  const auto third = client->Fetch({names[2]});
  // In the order of the ring: the release came with the third fetch at the latest.
  EXPECT_EQ(daemon_.loop()->GetStats().slots_held, 2u);
}

TEST_F(FetchRingServerTest, NoRingWhereNoneIsWanted) {
  const auto client = Attach(/*fetch_ring=*/false);
  EXPECT_TRUE(FetchedWell(client.get(), Write(client.get())));
  EXPECT_EQ(Exchanges(), 0);
  EXPECT_TRUE(RingFiles().empty());
}

TEST_F(FetchRingServerTest, WhatDoesNotFitGoesByGrpc) {
  const auto client = Attach();
  const std::vector<BlockName> names = Write(client.get());
  std::vector<BlockName> many;
  while (FitsRing(0, many.size())) many.insert(many.end(), names.begin(), names.end());
  ASSERT_TRUE(Eventually([&] { return daemon_.loop()->GetStats().slots_held == 0; }));
  const double before = Exchanges();
  const auto got = client->Fetch(many);
  ASSERT_TRUE(got.ok());
  EXPECT_TRUE(got->back().status.ok());
  EXPECT_EQ(Exchanges(), before);
}

TEST_F(FetchRingServerTest, ThreadsOfOneClientDoNotMixTheirAnswers) {
  const auto client = Attach();
  const std::vector<BlockName> names = Write(client.get());
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) wrong += !FetchedWell(client.get(), names);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(FetchRingServerTest, AClientAttachesAgainAfterItsRingWasBroken) {
  const auto client = Attach();
  const std::vector<BlockName> names = Write(client.get());
  ASSERT_TRUE(client->Flush(false).ok());
  for (int broken = 0; broken < 4; ++broken) {  // more often than it asks for another
    const std::vector<std::string> files = RingFiles();
    for (const std::string& file : files) {
      const auto ring = MappedFile::Open(file, kState + 4);
      ASSERT_TRUE(ring.ok()) << ring.status();
      const uint32_t garbage = 77;
      std::memcpy(ring->data() + kState, &garbage, sizeof(garbage));
    }
    client->Fetch(names).status().IgnoreError();  // may be the one that finds it broken
    ASSERT_TRUE(Eventually([&] { return RingFiles() != files || files.empty(); }));
    ASSERT_TRUE(Eventually([&] { return FetchedWell(client.get(), names); }));
  }
}

TEST_F(FetchRingServerTest, RingsOfAKilledStoreAreRemoved) {
  const std::string stale = daemon_.dir() + "/arena.ring-123", other = daemon_.dir() + "/arena2.ring-1";
  std::ofstream(stale) << "x";
  std::ofstream(other) << "x";
  const auto client = Attach();
  EXPECT_FALSE(std::filesystem::exists(stale));
  EXPECT_TRUE(std::filesystem::exists(other));
  EXPECT_EQ(RingFiles().size(), 1u);
}

// A client by hand, which sends what it likes.
TEST_F(FetchRingServerTest, GarbageClosesTheRingAndEndsTheStream) {
  const auto stub = pb::KvStore::NewStub(Connect(daemon_.address()));
  grpc::ClientContext context;
  pb::AttachRequest request;
  request.set_client_name("liar");
  request.set_fetch_ring(true);
  request.mutable_geometry()->set_layers(g_.layers);
  request.mutable_geometry()->set_query_heads(g_.query_heads);
  request.mutable_geometry()->set_kv_heads(g_.kv_heads);
  request.mutable_geometry()->set_head_dim(g_.head_dim);
  request.mutable_geometry()->set_chunk_tokens(g_.chunk_tokens);
  request.mutable_geometry()->set_group_tokens(g_.group_tokens);
  const auto stream = stub->Attach(&context, request);
  pb::AttachEvent event;
  ASSERT_TRUE(stream->Read(&event));
  ASSERT_NE(event.attached().ring_path(), "");
  auto ring = ClientRing::Open(event.attached().ring_path(), kFetchRingBytes, 0);
  ASSERT_TRUE(ring.ok()) << ring.status();
  // A slot that is none is ignored, as by gRPC.
  const RingFetch wrong_slot{1, {~0u}, {}};
  ASSERT_TRUE(ring->Post([&](absl::Span<uint8_t> slot) { return EncodeRingFetch(wrong_slot, slot); }).ok());
  EXPECT_TRUE(ring->Wait(absl::Seconds(10), [&](absl::Span<const uint8_t> message) {
                    return DecodeRingFetched(wrong_slot, message).status();
                  }).ok());
  ASSERT_TRUE(ring->Post([](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
                    std::memset(slot.data(), 0xff, 100);
                    return 100;
                  }).ok());
  EXPECT_EQ(ring->Wait(absl::Seconds(10), [](absl::Span<const uint8_t>) { return absl::OkStatus(); }).code(),
            StatusCode::kUnavailable);
  while (stream->Read(&event)) {
  }
  const grpc::Status end = stream->Finish();
  EXPECT_EQ(end.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(end.error_message().find("ring"), std::string::npos) << end.error_message();
  EXPECT_TRUE(RingFiles().empty());
}

}  // namespace
}  // namespace hga
