// The device selects what the router selects, bit for bit, and asks it for the rest.
#include "gpu_worker/backend/cuda/device_route_client.h"

#include <array>
#include <cmath>
#include <map>
#include <random>
#include <utility>

#include "common/kv/route_fixture.h"
#include "gpu_worker/backend/cuda/testing_device.h"
#include "gtest/gtest.h"
#include "router/client/local_route_client.h"

namespace hga {
namespace {

constexpr uint64_t kSequence = 7;

ChunkHash Name(uint32_t chunk) { return HashBytes("chunk " + std::to_string(chunk)); }

struct Query : MadeUpQueries {
  Query(const KvGeometry& g, uint32_t first_key, uint32_t upto, uint32_t budget, uint32_t seed, uint32_t tokens = 1)
      : MadeUpQueries(g, tokens, first_key, upto, budget, seed) {
    block.sequence_id = kSequence;
    Share(g, 2, 0);  // a device has to know what is attended anyway
    block.shared = false;
  }
  void Share(const KvGeometry& g, float mean, float least_share) {
    MadeUpQueries::Share(g, least_share, block.top_p, static_cast<uint32_t>(mean * 8) + 3, mean);
  }
};

// The parameter: a summary method.
class DeviceRouteClientTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    HGA_SKIP_WITHOUT_DEVICE();
    if (!LocalRouteClient(KvGeometry{}, *FindSummaryMethod("sketch")).rules().has_value()) {
      GTEST_SKIP() << "this CPU adds up in an order that no device repeats";
    }
  }
  void TearDown() override {
    client_.reset();
    mirror_.reset();
  }

  void SetGeometry(uint32_t per_head, uint32_t head_dim, uint32_t kv_heads, uint32_t chunk_tokens = 64) {
    geometry_.layers = 2;
    geometry_.kv_heads = kv_heads;
    geometry_.query_heads = per_head * kv_heads;
    geometry_.head_dim = head_dim;
    geometry_.chunk_tokens = chunk_tokens;
    UseEnergies(MadeUpEnergies(geometry_, head_dim));
  }
  void UseEnergies(const std::string& energies) {
    auto method = FindSummaryMethod(GetParam(), geometry_, energies);
    ASSERT_TRUE(method.ok()) << method.status();
    method_ = *method;
    data_.clear();
  }

  // A mirror of so many chunks, and a client beside a router that nothing stands before.
  void Start(uint32_t chunks, uint64_t seed = 0, const SelectOptions& options = {}, SummarySource source = nullptr) {
    client_.reset();
    mirror_.reset();
    SimulatedDeviceOptions device;
    device.seed = seed;
    device_ = MakeTestDevice(device);
    memory_ = std::make_unique<DeviceMemory>(device_.get(), uint64_t{200} << 20);
    const RouteMirrorPlan plan = RouteMirror::Plan(geometry_, GetParam(), BytesFor(chunks));
    EXPECT_EQ(plan.chunks, chunks);
    auto mirror = RouteMirror::Create(device_.get(), memory_.get(), geometry_, plan);
    ASSERT_TRUE(mirror.ok()) << mirror.status();
    EXPECT_EQ(memory_->used(), plan.bytes);
    mirror_ = *std::move(mirror);
    NewRouter(options, std::move(source));
  }
  void NewRouter(const SelectOptions& options = {}, SummarySource source = nullptr) {
    client_ = std::make_unique<DeviceRouteClient>(
        std::make_unique<LocalRouteClient>(geometry_, method_, options), mirror_.get(), method_, std::move(source));
    router_ = std::make_unique<LocalRouteClient>(geometry_, method_, options);
  }
  uint64_t BytesFor(uint32_t chunks) const {
    return SummaryPages::Bytes(BytesWithExtents(geometry_, *method_), chunks) +
           SketchSelector::Bytes(geometry_, *method_, chunks);
  }

  const std::string& Data(uint32_t chunk) {
    std::string& data = data_[chunk];
    if (data.empty()) data = SummaryData(geometry_, *method_, chunk);
    return data;
  }
  void Open(uint64_t id = kSequence, uint32_t chunks = 0) {
    std::vector<ChunkHash> names;
    for (uint32_t c = 0; c < chunks; ++c) names.push_back(Name(c));
    EXPECT_EQ(*client_->OpenSequence(id, names), chunks);
    EXPECT_EQ(*router_->OpenSequence(id, names), chunks);
  }
  void Append(uint32_t first, uint32_t end, uint64_t id = kSequence) {
    for (uint32_t c = first; c < end; ++c) {
      EXPECT_TRUE(client_->AppendSummary(id, c, Name(c), Data(c)).ok());
      EXPECT_TRUE(router_->AppendSummary(id, c, Name(c), Data(c)).ok());
    }
  }
  static RouteResponse Ask(RouteClient* client, const RouteRequest& request) {
    RouteResponse response;
    const absl::Status posted = client->Post(request);
    EXPECT_TRUE(posted.ok()) << posted;
    const absl::Status answered = client->Wait(&response);
    EXPECT_TRUE(answered.ok()) << answered;
    return response;
  }
  // Returns how many keys were selected, by both.
  size_t ExpectSame(const std::vector<RouteBlock>& blocks, uint32_t layer = 1) {
    RouteRequest request;
    request.step = 5;
    request.layer = layer;
    request.blocks = blocks;
    const RouteResponse ours = Ask(client_.get(), request), theirs = Ask(router_.get(), request);
    EXPECT_EQ(ours.step, 5u);
    EXPECT_EQ(ours.layer, layer);
    EXPECT_EQ(ours.missed, theirs.missed);
    size_t keys = 0;
    for (size_t b = 0; b < blocks.size(); ++b) {
      for (uint32_t h = 0; h < geometry_.kv_heads; ++h) {
        EXPECT_TRUE(ours.blocks[b][h] == theirs.blocks[b][h]) << "block " << b << ", KV head " << h;
        for (const SelectedChunk& s : ours.blocks[b][h]) keys += __builtin_popcountll(s.mask);
      }
    }
    return keys;
  }
  uint64_t OnDevice() const { return mirror_->use().on_device; }
  uint64_t ByRouter() const { return mirror_->use().by_router; }

  KvGeometry geometry_;
  const SummaryMethod* method_ = nullptr;
  std::map<uint32_t, std::string> data_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<DeviceMemory> memory_;
  std::unique_ptr<RouteMirror> mirror_;
  std::unique_ptr<RouteClient> router_;
  std::unique_ptr<DeviceRouteClient> client_;
};

TEST_P(DeviceRouteClientTest, SelectsAsTheRouterDoes) {
  size_t keys = 0, exchanges = 0;
  for (const auto& [per_head, head_dim, kv_heads] :
       {std::array<uint32_t, 3>{1, 8, 2}, {3, 24, 1}, {4, 64, 3}, {10, 40, 2}, {8, 128, 1}}) {
    SetGeometry(per_head, head_dim, kv_heads);
    // All chunks are scored, or few of them.
    for (const SelectOptions& options : {SelectOptions(), SelectOptions{1, 3}}) {
      Start(131, head_dim % 3, options);
      Open();
      Append(0, 131);
      for (const auto& [first_key, upto, budget] :
           {std::array<uint32_t, 3>{0, 131, 112}, {4, 131, 900}, {144, 65, 640}, {63 * 64, 64, 16}, {320, 6, 48}}) {
        Query own(geometry_, first_key, upto, budget, upto + head_dim), all(geometry_, first_key, upto, budget, upto);
        all.Share(geometry_, 4, 0.0004f);
        // Hardly anything is left of the attention for what is routed.
        Query faint(geometry_, first_key, upto, budget, upto);
        faint.Share(geometry_, 60, 0);
        for (const Query* q : {&own, &all, &faint}) keys += ExpectSame({q->block});
        exchanges += 3;
        EXPECT_EQ(OnDevice(), exchanges);
      }
      exchanges = 0;
    }
  }
  EXPECT_GT(keys, 10000u);
}

TEST_P(DeviceRouteClientTest, ShortChunksAndLargeBudgets) {
  for (const uint32_t chunk_tokens : {16u, 48u}) {
    SetGeometry(2, chunk_tokens == 16 ? 16 : 256, 2, chunk_tokens);
    Start(40, 1, SelectOptions{2, 4});
    Open();
    Append(0, 40);
    for (const uint32_t budget : {0u, 1u, 16u, 300u, 640u, 5000u, kEverything}) {
      Query q(geometry_, 16, 40, budget, budget % 97);
      ExpectSame({q.block});
      q.Share(geometry_, 2, 0.001f);
      ExpectSame({q.block});
    }
    const Query nothing(geometry_, chunk_tokens, 1, 30, 2);
    EXPECT_EQ(ExpectSame({nothing.block}), 0u);
    EXPECT_EQ(ByRouter(), 0u);
  }
}

// Summaries of equal chunks give equal scores. Keys are taken in several parts of each KV head.
TEST_P(DeviceRouteClientTest, EqualScoresAreTakenInOrder) {
  SetGeometry(2, 16, 2);
  for (const SelectOptions& options : {SelectOptions(), SelectOptions{1, 5}}) {
    constexpr uint32_t kChunks = 2 * kRoutePartChunks + 7;
    Start(kChunks, 2, options);
    Open();
    for (uint32_t c = 0; c < kChunks; ++c) data_[c] = Data(c % 3);
    Append(0, kChunks);
    for (const uint32_t budget : {5u, 333u, 1900u}) {
      Query q(geometry_, 0, kChunks, budget, budget);
      EXPECT_GT(ExpectSame({q.block}), 0u);
      q.Share(geometry_, 3, 0);
      EXPECT_GT(ExpectSame({q.block}), 0u);
    }
  }
  EXPECT_EQ(ByRouter(), 0u);
}

// As many chunks as the default settings keep are looked into; a router that keeps more selects itself.
TEST_P(DeviceRouteClientTest, LongHistories) {
  SetGeometry(2, 8, 1);
  constexpr uint32_t kChunks = 4200;
  for (const bool more : {false, true}) {
    Start(kChunks, 1, more ? SelectOptions{4, kChunks} : SelectOptions());
    Open();
    for (uint32_t c = 61; c < kChunks; ++c) data_[c] = Data(c % 61);
    Append(0, kChunks);
    Query q(geometry_, 70, kChunks, 1900, 3);
    q.Share(geometry_, 2, 1e-6f);
    EXPECT_GT(ExpectSame({q.block}), 0u);
    EXPECT_EQ(OnDevice(), more ? 0u : 1u);
    EXPECT_EQ(ByRouter(), more ? 1u : 0u);
  }
}

// The second KV head has the keys of the first in another order, and the same queries: which of two keys has the larger
// share hangs on the last bit of sums and exponentials alone.
TEST_P(DeviceRouteClientTest, LastBitsDecideAsTheyDoOnTheRouter) {
  SetGeometry(3, 64, 3);  // the third has its own, so that a cut goes through a pair of keys
  constexpr uint32_t kChunks = 24;
  const KvGeometry& g = geometry_;
  std::string energies = MadeUpEnergies(g);
  const size_t energy_bytes = 2 * g.head_dim;
  for (size_t layer = 0; layer < energies.size(); layer += 3 * energy_bytes) {
    energies.replace(layer + energy_bytes, energy_bytes, energies, layer, energy_bytes);
  }
  UseEnergies(energies);
  const SummaryMethod& m = *method_;
  for (uint32_t c = 0; c < kChunks; ++c) {
    std::vector<bf16> block = RandomBf16(g.block_elements(), c);
    const std::vector<bf16> other = RandomBf16(g.block_elements(), (7 * c + 3) % kChunks);
    for (uint32_t t = 0; t < g.chunk_tokens; ++t) {
      std::copy_n(other.begin() + g.k_row(0, g.chunk_tokens - 1 - t), g.head_dim, block.begin() + g.k_row(1, t));
    }
    data_[c].resize(m.chunk_bytes(g));
    for (uint32_t layer = 0; layer < g.layers; ++layer) {
      SummarizeBlock(g, m, layer, block.data(), reinterpret_cast<uint8_t*>(&data_[c][layer * m.layer_bytes(g)]));
    }
  }
  Start(kChunks, 1);
  Open();
  Append(0, kChunks);
  std::mt19937 random(8);
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Query q(g, 0, kChunks, 100 + 7 * seed, seed);
    q.Share(g, 3 + seed % 7, 0);
    const size_t of_head = q.queries.size() / 3;
    std::copy_n(q.queries.begin(), of_head, q.queries.begin() + of_head);
    for (uint32_t h = 0; h < 3; ++h) {
      q.attended[3 + h] = q.attended[h] * (1 + static_cast<float>(random() % 9 - 4.0) * 1e-7f);
    }
    ExpectSame({q.block});
  }
  EXPECT_EQ(OnDevice(), 60u);
}

// Weights are beside what is attended anyway.
TEST_P(DeviceRouteClientTest, WhatIsNotKnownToBeAttendedIsLeftToTheRouter) {
  SetGeometry(2, 16, 2);
  Start(20);
  Open();
  Append(0, 20);
  Query q(geometry_, 16, 20, 100, 1);
  for (const float unknown : {-INFINITY, INFINITY, NAN}) {
    q.attended[3] = unknown;
    ExpectSame({q.block});
  }
  q.block.attended = nullptr;
  EXPECT_GT(ExpectSame({q.block}), 0u);
  EXPECT_EQ(ByRouter(), 4u);
  EXPECT_EQ(OnDevice(), 0u);
}

TEST_P(DeviceRouteClientTest, RoutersPartOfAnExchange) {
  SetGeometry(2, 16, 2);
  Start(20);
  Open();
  Append(0, 20);
  Open(8);
  const Query decoding(geometry_, 16, 20, 100, 1), prompt(geometry_, 16, 18, 100, 2, 5);
  Query top(geometry_, 0, 20, 100, 3), missed(geometry_, 0, 20, 100, 4);
  top.Share(geometry_, 2, 0);
  top.block.top_p = 0.5f;
  missed.block.residual = true;
  EXPECT_GT(ExpectSame({prompt.block, decoding.block, top.block, missed.block, decoding.block}), 0u);
  EXPECT_EQ(OnDevice(), 2u);
  EXPECT_EQ(ByRouter(), 2u);
  ExpectSame({prompt.block});
  // More than the device takes at a time.
  ExpectSame(std::vector<RouteBlock>(SketchSelector::kBlocks + 2, decoding.block), 0);
  EXPECT_EQ(OnDevice(), 2u + SketchSelector::kBlocks);
  EXPECT_EQ(ByRouter(), 4u);
}

TEST_P(DeviceRouteClientTest, GrowsAndIsSharedByContent) {
  SetGeometry(2, 16, 2);
  Start(12);
  Open();
  for (uint32_t upto = 2; upto <= 12; upto += 2) {  // an answer that grows
    Append(upto - 2, upto);
    ExpectSame({Query(geometry_, 16, upto, 40, upto).block});
  }
  // A fork: nothing new is brought, though there is no room left.
  Open(8, 12);
  Query q(geometry_, 16, 11, 40, 1);
  q.block.sequence_id = 8;
  ExpectSame({q.block});
  EXPECT_EQ(ByRouter(), 0u);
  EXPECT_EQ(OnDevice(), 7u);
  // Cut back, and on with other chunks: those of the fork stay.
  client_->CloseSequence(kSequence);
  Open(kSequence, 5);
  for (uint32_t c = 5; c < 7; ++c) {
    EXPECT_TRUE(client_->AppendSummary(kSequence, c, Name(100 + c), Data(100 + c)).ok());
    EXPECT_TRUE(router_->AppendSummary(kSequence, c, Name(100 + c), Data(100 + c)).ok());
  }
  ExpectSame({Query(geometry_, 16, 5, 40, 4).block});  // the common part
  EXPECT_EQ(ByRouter(), 0u);
  ExpectSame({Query(geometry_, 16, 7, 40, 5).block});  // no room for the rest
  EXPECT_EQ(ByRouter(), 1u);
  // The fork goes; what only it had may go, too.
  client_->CloseSequence(8);
  Open(9, 5);
  for (uint32_t c = 5; c < 7; ++c) {
    EXPECT_TRUE(client_->AppendSummary(9, c, Name(100 + c), Data(100 + c)).ok());
    EXPECT_TRUE(router_->AppendSummary(9, c, Name(100 + c), Data(100 + c)).ok());
  }
  Query other(geometry_, 16, 7, 40, 5);
  other.block.sequence_id = 9;
  ExpectSame({other.block});
  EXPECT_EQ(ByRouter(), 1u);
}

TEST_P(DeviceRouteClientTest, ReadsWhatTheRouterKnew) {
  SetGeometry(2, 16, 2);
  size_t asked = 0;
  std::string stored = "dealt:0";
  const SummarySource source = [&](absl::Span<const ChunkHash> chunks, const auto& sink) {
    for (const ChunkHash& chunk : chunks) {
      for (uint32_t c = 0; c < 40; ++c) {
        if (chunk == Name(c)) sink(chunk, stored, Data(c));
      }
      ++asked;
    }
    return absl::OkStatus();
  };
  Start(40, 1, {}, source);
  Open();
  Append(0, 40);
  client_->CloseSequence(kSequence);
  // The same router as before, and a device that knows nothing.
  auto router = std::make_unique<LocalRouteClient>(geometry_, method_);
  ASSERT_TRUE(router->OpenSequence(1, {}).ok());
  for (uint32_t c = 0; c < 40; ++c) ASSERT_TRUE(router->AppendSummary(1, c, Name(c), Data(c)).ok());
  client_.reset();
  mirror_ = *RouteMirror::Create(device_.get(), memory_.get(), geometry_, {method_, 30, BytesFor(30)});
  client_ = std::make_unique<DeviceRouteClient>(std::move(router), mirror_.get(), method_, source);
  Open(kSequence, 25);
  client_->WaitUntilRead();
  ExpectSame({Query(geometry_, 16, 25, 200, 9).block});
  EXPECT_EQ(ByRouter(), 1u);  // what there is is of another plan
  asked = 0;
  stored = method_->name;
  Open(kSequence, 25);
  client_->WaitUntilRead();
  EXPECT_EQ(asked, 25u);
  EXPECT_GT(ExpectSame({Query(geometry_, 16, 25, 200, 9).block}), 0u);
  EXPECT_EQ(OnDevice(), 1u);
  // Found on the device, or not wanted twice.
  Open(8, 25);
  client_->WaitUntilRead();
  EXPECT_EQ(asked, 25u);
  // Beyond the room: the router, after reading no more than fits.
  Open(kSequence, 40);
  client_->WaitUntilRead();
  EXPECT_LE(asked, 25u + 16);
  ExpectSame({Query(geometry_, 16, 40, 200, 9).block});
  EXPECT_EQ(ByRouter(), 2u);
}

TEST_P(DeviceRouteClientTest, AnotherRouterFindsThePages) {
  SetGeometry(2, 16, 2);
  Start(20);
  Open();
  Append(0, 20);
  ExpectSame({Query(geometry_, 16, 20, 40, 1).block});
  NewRouter();  // which knows nothing
  Open();
  ExpectSame({Query(geometry_, 0, 0, 40, 1).block});
  Append(0, 20);
  ExpectSame({Query(geometry_, 16, 20, 40, 1).block});
  EXPECT_EQ(ByRouter(), 0u);
}

class LostRouter : public LocalRouteClient {
 public:
  using LocalRouteClient::LocalRouteClient;
  bool connected() const override { return false; }
};

TEST_P(DeviceRouteClientTest, WithoutARouterNothingIsSelected) {
  SetGeometry(2, 16, 2);
  Start(4);
  client_ = std::make_unique<DeviceRouteClient>(
      std::make_unique<LostRouter>(geometry_, method_), mirror_.get(), method_, nullptr);
  const Query q(geometry_, 0, 2, 40, 1);
  RouteRequest request;
  request.blocks = {q.block};
  EXPECT_TRUE(absl::IsUnavailable(client_->Post(request)));
}

TEST_P(DeviceRouteClientTest, TakesTheMethodThatItIsPlannedFor) {
  SetGeometry(2, 16, 2);
  Start(4);
  EXPECT_TRUE(mirror_->Takes(*method_));
  const std::string other = GetParam() == std::string("sketch") ? "dealt" : "sketch";
  EXPECT_FALSE(mirror_->Takes(**FindSummaryMethod(other, geometry_, MadeUpEnergies(geometry_))));
  EXPECT_FALSE(mirror_->Takes(**FindSummaryMethod("dealt")));  // its plan is missing
  for (const char* name : {"cuboid8", "none"}) {
    EXPECT_EQ(RouteMirror::Plan(geometry_, name, 100 << 20).chunks, 0u) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, DeviceRouteClientTest, testing::Values("sketch", "dealt"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hga
