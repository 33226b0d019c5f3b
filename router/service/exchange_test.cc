// Clients of every kind against a real service on a Unix socket.
#include <thread>

#include "absl/numeric/bits.h"
#include "common/kv/proto_geometry.h"
#include "common/kv/route_fixture.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/shm/ring.h"
#include "gtest/gtest.h"
#include "router/client/attach_router.h"
#include "router/client/dense_route_client.h"
#include "router/client/local_route_client.h"
#include "router/service/kv_summary_source.h"
#include "router/service/router_fixture.h"

namespace hga {
namespace {

const SummaryMethod& Method() { return **FindSummaryMethod("sketch"); }

RouteAttachOptions Options(const RouterFixture& router, RouteTransport transport) {
  RouteAttachOptions options;
  options.address = router.address();
  options.geometry = SmallGeometry(3);
  options.transport = transport;
  options.max_message_bytes = 1 << 20;
  return options;
}

std::unique_ptr<RouteClient> Attach(const RouterFixture& router, RouteTransport transport) {
  auto client = AttachRouter(Options(router, transport));
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : nullptr;
}

// Opens sequence 1 and appends made-up summaries.
void Fill(RouteClient* client, uint32_t chunks) {
  const auto hashes = MadeUpChunks(chunks);
  ASSERT_EQ(*client->OpenSequence(1, {}), 0u);
  for (uint32_t i = 0; i < chunks; ++i) {
    ASSERT_TRUE(client->AppendSummary(1, i, hashes[i], SummaryData(SmallGeometry(3), Method(), i)).ok());
  }
}

absl::StatusOr<RouteResponse> Ask(RouteClient* client, uint32_t layer, const std::vector<RouteBlock>& blocks) {
  const RouteRequest request = {7, layer, blocks};
  RouteResponse response;
  absl::Status status = client->Post(request);
  if (status.ok()) status = client->Wait(&response);
  if (!status.ok()) return status;
  return response;
}

// Waits for what another thread is about to do.
template <typename Condition>
bool Eventually(Condition condition) {
  for (const absl::Time deadline = absl::Now() + absl::Seconds(20); absl::Now() < deadline;) {
    if (condition()) return true;
    std::this_thread::yield();
  }
  return false;
}

TEST(ExchangeTest, RingStreamAndLocalSelectTheSame) {
  RouterFixture router;
  auto ring = Attach(router, RouteTransport::kRing);
  auto stream = Attach(router, RouteTransport::kStream);
  LocalRouteClient local(SmallGeometry(3), &Method());
  for (RouteClient* client : {ring.get(), stream.get(), static_cast<RouteClient*>(&local)}) Fill(client, 70);
  const KvGeometry g = SmallGeometry(3);
  for (uint32_t layer : {0, 1}) {
    const MadeUpQueries decode(g, 1, 4, 70, 150, 1), prefill(g, 33, 128, 66, 200, 2), full(g, 2, 0, 70, 70 * 64, 3);
    const std::vector<RouteBlock> blocks = {decode.block, prefill.block, full.block};
    const auto expected = Ask(&local, layer, blocks);
    const auto by_ring = Ask(ring.get(), layer, blocks);
    const auto by_stream = Ask(stream.get(), layer, blocks);
    ASSERT_TRUE(by_ring.ok()) << by_ring.status();
    ASSERT_TRUE(by_stream.ok()) << by_stream.status();
    uint32_t keys = 0;
    for (const SelectedChunk& s : expected->blocks[0][0]) keys += absl::popcount(s.mask);
    EXPECT_EQ(keys, 150u);
    EXPECT_EQ(by_ring->blocks, expected->blocks);
    EXPECT_EQ(by_stream->blocks, expected->blocks);
    DenseRouteClient dense(g);
    EXPECT_EQ(Ask(&dense, layer, {full.block})->blocks[0], expected->blocks[2]);
  }
  // Counted after the answer was sent.
  EXPECT_TRUE(Eventually([&] { return router.metrics().selections() == 12; }));
  EXPECT_EQ(router.metrics().ring().count(), 2u);
  EXPECT_EQ(router.metrics().stream().count(), 2u);
}

TEST(ExchangeTest, AWorkerIsToldHowItsRouterSelects) {
  RouterFixture router;
  const auto expected = LocalRouteClient(SmallGeometry(3), &Method()).rules();
  for (const RouteTransport transport : {RouteTransport::kRing, RouteTransport::kStream}) {
    const auto rules = Attach(router, transport)->rules();
    ASSERT_EQ(rules.has_value(), expected.has_value());
    if (!rules.has_value()) continue;  // on a CPU whose sums a device does not repeat
    EXPECT_EQ(rules->overprovision, expected->overprovision);
    EXPECT_EQ(rules->scan_chunks, expected->scan_chunks);
  }
}

class TransportTest : public testing::TestWithParam<RouteTransport> {};

TEST_P(TransportTest, WhatIsNotIndexedIsRefusedAndTheNextQuestionAnswered) {
  RouterFixture router;
  auto client = Attach(router, GetParam());
  Fill(client.get(), 4);
  const KvGeometry g = SmallGeometry(3);
  const MadeUpQueries early(g, 1, 0, 5, 32, 1), good(g, 1, 0, 4, 32, 1);
  RouteBlock unknown = good.block;
  unknown.sequence_id = 99;
  EXPECT_EQ(Ask(client.get(), 0, {early.block}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Ask(client.get(), 0, {unknown}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Ask(client.get(), 9, {good.block}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Ask(client.get(), 0, {good.block}).ok());
  EXPECT_TRUE(client->connected());
}

TEST_P(TransportTest, ARouterThatIsGoneIsUnavailableAtOnce) {
  auto router = std::make_unique<RouterFixture>();
  auto client = Attach(*router, GetParam());
  Fill(client.get(), 4);
  const MadeUpQueries q(SmallGeometry(3), 1, 0, 4, 32, 1);
  ASSERT_TRUE(Ask(client.get(), 0, {q.block}).ok());
  const absl::Time start = absl::Now();
  router.reset();
  EXPECT_EQ(Ask(client.get(), 0, {q.block}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Eventually([&] { return !client->connected(); }));
  EXPECT_EQ(client->OpenSequence(2, {}).status().code(), absl::StatusCode::kUnavailable);
  client->CloseSequence(1);
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
}

TEST_P(TransportTest, AWorkerThatLeavesTakesItsSequencesAndItsRing) {
  RouterFixture router;
  auto client = Attach(router, GetParam());
  Fill(client.get(), 4);
  EXPECT_EQ(router.index().totals().sequences, 1u);
  client.reset();
  EXPECT_TRUE(Eventually([&] { return router.index().totals().sequences == 0; }));
  EXPECT_TRUE(Eventually([&] {
    for (const auto& entry : std::filesystem::directory_iterator(router.folder())) {
      if (entry.path().filename().string().find("ring") != std::string::npos) return false;
    }
    return true;
  }));
}

INSTANTIATE_TEST_SUITE_P(Transports, TransportTest, testing::Values(RouteTransport::kRing, RouteTransport::kStream));

TEST(ExchangeTest, AppendsOutOfOrderAreRefused) {
  RouterFixture router;
  auto client = Attach(router, RouteTransport::kAuto);
  Fill(client.get(), 2);
  const auto hashes = MadeUpChunks(4);
  const std::string data = SummaryData(SmallGeometry(3), Method(), 3);
  EXPECT_EQ(client->AppendSummary(1, 3, hashes[3], data).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(client->AppendSummary(1, 1, hashes[1], data).ok());
  EXPECT_EQ(client->AppendSummary(1, 2, hashes[2], "short").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client->AppendSummary(8, 0, hashes[0], data).code(), absl::StatusCode::kNotFound);
}

// A store that is away at first.
class FakeStore : public KvClient {
 public:
  absl::Status GetSummaries(absl::Span<const ChunkHash> chunks,
                            const std::function<void(const ChunkHash&, const std::string&, const std::string&)>& sink)
      override {
    const auto all = MadeUpChunks(6);
    for (const ChunkHash& chunk : chunks) {
      for (uint32_t i = 0; i < all.size(); ++i) {
        if (all[i] == chunk) sink(chunk, "sketch", SummaryData(SmallGeometry(3), Method(), i));
      }
    }
    return absl::OkStatus();
  }
  absl::StatusOr<OpenedSession> OpenSession(const std::string&, const ModelFingerprint&,
                                            absl::Span<const ChunkHash>) override { return No(); }
  absl::Status UpdateSession(const OpenedSession&, absl::Span<const ChunkHash>, absl::Span<const uint32_t>) override {
    return No();
  }
  absl::Status CloseSession(const OpenedSession&) override { return No(); }
  absl::StatusOr<std::vector<uint32_t>> GetSession(const std::string&, const ModelFingerprint&) override {
    return No();
  }
  absl::StatusOr<std::vector<SessionSummary>> ListSessions() override { return No(); }
  absl::Status DeleteSession(const std::string&) override { return No(); }
  absl::Status ForkSession(const std::string&, const std::string&) override { return No(); }
  absl::Status PinSession(const std::string&, bool) override { return No(); }
  absl::StatusOr<std::vector<HeldBlock>> Reserve(uint32_t) override { return No(); }
  absl::StatusOr<std::vector<HeldBlock>> Commit(const OpenedSession&, CommitChunk) override { return No(); }
  absl::StatusOr<std::vector<FetchedBlock>> FetchHeads(absl::Span<const BlockHeads>) override { return No(); }
  absl::StatusOr<KvStoreStats> GetStats() override { return No(); }
  uint32_t TakeReclaim() override { return 0; }
  uint64_t rpc_count() const override { return 0; }
  bool connected() const override { return true; }

 private:
  static absl::Status No() { return absl::UnimplementedError("not in this test"); }
};

TEST(ExchangeTest, ANewRouterRebuildsFromTheStore) {
  bool away = true;
  RouterFixture router(KvSummarySource([&]() -> absl::StatusOr<std::unique_ptr<KvClient>> {
    if (away) return absl::UnavailableError("no store yet");
    return std::unique_ptr<KvClient>(std::make_unique<FakeStore>());
  }));
  auto client = Attach(router, RouteTransport::kAuto);
  EXPECT_EQ(*client->OpenSequence(1, MadeUpChunks(10)), 0u);
  away = false;
  // The source tries again a second after it failed.
  EXPECT_TRUE(Eventually([&] { return *client->OpenSequence(1, MadeUpChunks(10)) == 6u; }));
  EXPECT_EQ(router.index().totals().rebuilt_chunks, 6u);
  LocalRouteClient local(SmallGeometry(3), &Method());
  Fill(&local, 6);
  const MadeUpQueries q(SmallGeometry(3), 1, 0, 6, 80, 1);
  EXPECT_EQ(Ask(client.get(), 1, {q.block})->blocks, Ask(&local, 1, {q.block})->blocks);
}

TEST(ExchangeTest, GarbageInTheRingIsRefusedAndHarmsNobodyElse) {
  RouterFixture router;
  auto other = Attach(router, RouteTransport::kRing);
  Fill(other.get(), 4);
  const auto stub = router::v1::Router::NewStub(Connect(router.address()));
  grpc::ClientContext context;
  router::v1::AttachRequest request;
  request.set_method("sketch");
  request.set_want_ring(true);
  request.set_ring_slot_bytes(kMinRingSlotBytes);
  GeometryToProto(SmallGeometry(3), request.mutable_geometry());
  const auto reader = stub->Attach(&context, request);
  router::v1::AttachEvent event;
  ASSERT_TRUE(reader->Read(&event));
  auto ring = ClientRing::Open(event.attached().ring_path(), event.attached().ring_slot_bytes(), 0);
  ASSERT_TRUE(ring.ok()) << ring.status();
  for (size_t bytes : {size_t{0}, size_t{3}, size_t{kMinRingSlotBytes}}) {
    ASSERT_TRUE(ring->Post([&](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
                      std::fill(slot.begin(), slot.end(), 0xa5);
                      return bytes;
                    }).ok());
    EXPECT_EQ(ring->Wait(absl::Seconds(20), [](absl::Span<const uint8_t>) { return absl::OkStatus(); }).code(),
              absl::StatusCode::kInvalidArgument);
  }
  ASSERT_TRUE(ring->Post([](absl::Span<uint8_t>) -> absl::StatusOr<size_t> { return kMinRingSlotBytes + 1; }).ok());
  EXPECT_EQ(ring->Wait(absl::Seconds(20), [](absl::Span<const uint8_t>) { return absl::OkStatus(); }).code(),
            absl::StatusCode::kUnavailable);
  context.TryCancel();
  const MadeUpQueries q(SmallGeometry(3), 1, 0, 4, 32, 1);
  EXPECT_TRUE(Ask(other.get(), 0, {q.block}).ok());
}

TEST(ExchangeTest, AbsurdAttachmentsAreRefused) {
  RouterFixture router;
  auto options = Options(router, RouteTransport::kRing);
  options.method = "none";
  EXPECT_EQ(AttachRouter(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = Options(router, RouteTransport::kRing);
  options.max_message_bytes = uint64_t{1} << 60;
  EXPECT_EQ(AttachRouter(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = Options(router, RouteTransport::kAuto);
  options.geometry.group_tokens = 13;
  EXPECT_EQ(AttachRouter(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = Options(router, RouteTransport::kAuto);
  options.address = "unix:" + router.folder() + "/nobody.sock";
  options.timeout = absl::Seconds(1);
  EXPECT_EQ(AttachRouter(options).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace hga
