// One suite over the ways to a store: what the engine may rely on.
#include <cstring>
#include <functional>
#include <memory>

#include "gtest/gtest.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/client/memory_kv_client.h"
#include "kv_store/service/testing_daemon.h"

namespace hga {
namespace {

using absl::StatusCode;

KvGeometry SmallGeometry() {
  KvGeometry g;
  g.layers = 3;
  g.query_heads = 2;
  g.kv_heads = 2;
  g.head_dim = 8;
  return g;
}

enum class Way { kMemory, kArena, kRing, kBytes };

class ConformanceTest : public ::testing::TestWithParam<Way> {
 protected:
  static constexpr uint32_t kSlots = 256;

  void SetUp() override {
    if (GetParam() == Way::kMemory) {
      auto memory = std::make_unique<MemoryKvClient>(g_, kSlots);
      drop_ram_ = [client = memory.get()] { client->DropRam(); };
      client_ = std::move(memory);
      return;
    }
    ASSERT_TRUE(daemon_.Start(kSlots * 4096).ok());
    GrpcKvClientOptions options{daemon_.address(), "test", g_};
    if (GetParam() == Way::kBytes) options.remote_bytes = kSlots * 4096;
    options.fetch_ring = GetParam() == Way::kRing;
    auto grpc = GrpcKvClient::Attach(options);
    ASSERT_TRUE(grpc.ok()) << grpc.status();
    drop_ram_ = [client = grpc->get()] { ASSERT_TRUE(client->Flush(true).ok()); };
    client_ = *std::move(grpc);
  }

  std::vector<uint32_t> Tokens(uint32_t chunks) const {
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < chunks * g_.chunk_tokens; ++i) tokens.push_back(i * 7);
    return tokens;
  }
  std::vector<ChunkHash> Hashes(uint32_t chunks) const { return ChunkHashes(model_, g_, Tokens(chunks)); }

  absl::StatusOr<std::vector<HeldBlock>> Commit(const OpenedSession& session, uint32_t i) {
    CommitChunk chunk;
    chunk.hash = Hashes(i + 1)[i];
    chunk.parent = i == 0 ? SeedHash(model_, g_) : Hashes(i)[i - 1];
    const std::vector<uint32_t> tokens = Tokens(i + 1);
    chunk.token_ids.assign(tokens.begin() + i * g_.chunk_tokens, tokens.end());
    auto blocks = client_->Reserve(g_.layers);
    if (!blocks.ok()) return blocks.status();
    for (uint32_t l = 0; l < g_.layers; ++l)
      std::memset((*blocks)[l].data(), i * 8 + l + 1, g_.block_bytes());
    chunk.blocks = *std::move(blocks);
    chunk.summary_method = "mean";
    chunk.summary = "summary " + std::to_string(i);
    return client_->Commit(session, std::move(chunk));
  }
  bool Holds(const HeldBlock& block, uint32_t i, uint32_t layer) const {
    const std::string expected(g_.block_bytes(), static_cast<char>(i * 8 + layer + 1));
    return block && std::memcmp(block.data(), expected.data(), expected.size()) == 0;
  }

  const KvGeometry g_ = SmallGeometry();
  const ModelFingerprint model_ = HashBytes("model");
  TestingDaemon daemon_;
  std::unique_ptr<KvClient> client_;
  std::function<void()> drop_ram_;
};

TEST_P(ConformanceTest, CommittedBlocksComeBackFromRamAndFromDisk) {
  const auto session = client_->OpenSession("book", model_, {});
  ASSERT_TRUE(session.ok()) << session.status();
  for (uint32_t i = 0; i < 3; ++i) {
    const auto held = Commit(*session, i);
    ASSERT_TRUE(held.ok()) << held.status();
    for (uint32_t l = 0; l < g_.layers; ++l) EXPECT_TRUE(Holds((*held)[l], i, l));
  }
  for (FoundIn expected : {FoundIn::kRam, FoundIn::kDisk}) {
    if (expected == FoundIn::kDisk) drop_ram_();
    const auto got =
        client_->Fetch({{Hashes(3)[2], 1}, {Hashes(1)[0], 0}, {HashBytes("no"), 0}, {Hashes(1)[0], 3}});
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(Holds((*got)[0].block, 2, 1));
    EXPECT_TRUE(Holds((*got)[1].block, 0, 0));
    EXPECT_EQ((*got)[0].found_in, expected);
    EXPECT_EQ((*got)[2].status.code(), StatusCode::kNotFound);
    EXPECT_EQ((*got)[3].status.code(), StatusCode::kNotFound);
    EXPECT_FALSE((*got)[2].block);
  }
}

TEST_P(ConformanceTest, SomeHeadsOfABlock) {
  const auto session = client_->OpenSession("book", model_, {});
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_TRUE(Commit(*session, 0).ok());
  const BlockName name{Hashes(1)[0], 2};
  for (FoundIn expected : {FoundIn::kRam, FoundIn::kDisk}) {
    if (expected == FoundIn::kDisk) drop_ram_();
    const auto got = client_->FetchHeads({{name, 2}, {name, 1}, {{HashBytes("no"), 0}, 1}});
    ASSERT_TRUE(got.ok()) << got.status();
    for (uint32_t head = 0; head < 2; ++head) {
      ASSERT_TRUE((*got)[1 - head].status.ok()) << (*got)[1 - head].status;
      EXPECT_EQ((*got)[1 - head].found_in, expected);
      const auto* const bytes = static_cast<const uint8_t*>((*got)[1 - head].block.data());
      const std::string part(bytes + head * g_.block_bytes() / 2, bytes + (head + 1) * g_.block_bytes() / 2);
      EXPECT_EQ(part, std::string(g_.block_bytes() / 2, '\3'));
    }
    EXPECT_EQ((*got)[2].status.code(), StatusCode::kNotFound);
  }
  const auto whole = client_->Fetch({name});
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_TRUE(Holds((*whole)[0].block, 0, 2));
}

TEST_P(ConformanceTest, SessionsRememberTokensAndMatchPrefixes) {
  auto session = client_->OpenSession("book", model_, {});
  ASSERT_TRUE(session.ok());
  EXPECT_EQ(client_->GetSession("book", model_).status().code(), StatusCode::kNotFound);
  for (uint32_t i = 0; i < 2; ++i) ASSERT_TRUE(Commit(*session, i).ok());
  ASSERT_TRUE(client_->UpdateSession(*session, Hashes(2), {5, 6}).ok());
  EXPECT_EQ(client_->OpenSession("book", model_, {}).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(client_->DeleteSession("book").code(), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(client_->CloseSession(*session).ok());
  std::vector<uint32_t> expected = Tokens(2);
  expected.insert(expected.end(), {5, 6});
  EXPECT_EQ(*client_->GetSession("book", model_), expected);
  EXPECT_EQ(client_->GetSession("book", HashBytes("other")).status().code(), StatusCode::kFailedPrecondition);

  const auto again = client_->OpenSession("book", model_, Hashes(4));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->matched_chunks, 2u);
  EXPECT_GT(again->epoch, session->epoch);
  EXPECT_EQ(client_->UpdateSession(*session, {}, {}).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(client_->UpdateSession(*again, Hashes(4), {}).code(), StatusCode::kFailedPrecondition);
  const auto list = client_->ListSessions();
  ASSERT_EQ(list->size(), 1u);
  EXPECT_EQ((*list)[0].tokens, 130u);
  EXPECT_TRUE((*list)[0].open);
  ASSERT_TRUE(client_->CloseSession(*again).ok());
  ASSERT_TRUE(client_->DeleteSession("book").ok());
  EXPECT_EQ(client_->DeleteSession("book").code(), StatusCode::kNotFound);
  EXPECT_EQ(client_->OpenSession("", model_, Hashes(2))->matched_chunks, 0u);
}

TEST_P(ConformanceTest, AForkGoesOnByItself) {
  const auto session = client_->OpenSession("book", model_, {});
  EXPECT_EQ(client_->ForkSession("book", "copy").code(), StatusCode::kNotFound);  // nothing in it yet
  ASSERT_TRUE(Commit(*session, 0).ok());
  ASSERT_TRUE(client_->UpdateSession(*session, Hashes(1), {5}).ok());
  ASSERT_TRUE(client_->ForkSession("book", "copy").ok());  // of one that is open
  EXPECT_EQ(client_->ForkSession("book", "copy").code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(client_->ForkSession("book", "book").code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(client_->ForkSession("nobody", "x").code(), StatusCode::kNotFound);
  EXPECT_EQ(client_->ForkSession("book", ".x").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->GetStats()->chunks, 1u);
  ASSERT_TRUE(client_->UpdateSession(*session, Hashes(1), {6, 7}).ok());
  ASSERT_TRUE(client_->CloseSession(*session).ok());
  std::vector<uint32_t> expected = Tokens(1);
  expected.push_back(5);
  EXPECT_EQ(*client_->GetSession("copy", model_), expected);
  ASSERT_TRUE(client_->DeleteSession("book").ok());
  const auto copy = client_->OpenSession("copy", model_, Hashes(1));
  EXPECT_EQ(copy->matched_chunks, 1u);
  EXPECT_TRUE(Holds((*client_->Fetch({{Hashes(1)[0], 1}}))[0].block, 0, 1));
}

TEST_P(ConformanceTest, PinsStayWithTheSession) {
  EXPECT_EQ(client_->PinSession("book", true).code(), StatusCode::kNotFound);
  EXPECT_EQ(client_->PinSession(".x", true).code(), StatusCode::kInvalidArgument);
  const auto session = client_->OpenSession("book", model_, {});
  ASSERT_TRUE(client_->PinSession("book", true).ok());  // of one that is open and has nothing yet
  ASSERT_TRUE(Commit(*session, 0).ok());
  ASSERT_TRUE(client_->UpdateSession(*session, Hashes(1), {5}).ok());
  ASSERT_TRUE(client_->CloseSession(*session).ok());
  ASSERT_TRUE(client_->ForkSession("book", "copy").ok());
  const auto pinned = [&](const std::string& name) {
    const auto sessions = client_->ListSessions();
    for (const SessionSummary& s : *sessions) {
      if (s.name == name) return s.pinned;
    }
    return false;
  };
  EXPECT_TRUE(pinned("book"));
  EXPECT_FALSE(pinned("copy"));
  ASSERT_TRUE(client_->PinSession("book", false).ok());
  ASSERT_TRUE(client_->PinSession("copy", true).ok());
  EXPECT_FALSE(pinned("book"));
  EXPECT_TRUE(pinned("copy"));
}

TEST_P(ConformanceTest, NamelessSessionIsForgottenAndItsHoldsStayReadable) {
  const auto session = client_->OpenSession("", model_, {});
  auto held = Commit(*session, 0);
  ASSERT_TRUE(held.ok());
  ASSERT_TRUE(client_->CloseSession(*session).ok());
  EXPECT_EQ((*client_->Fetch({{Hashes(1)[0], 0}}))[0].status.code(), StatusCode::kNotFound);
  EXPECT_TRUE(Holds((*held)[2], 0, 2));
}

TEST_P(ConformanceTest, DuplicateCommitReadsTheSame) {
  const auto a = client_->OpenSession("a", model_, {});
  const auto b = client_->OpenSession("b", model_, {});
  ASSERT_TRUE(Commit(*a, 0).ok());
  const auto held = Commit(*b, 0);
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_TRUE(Holds((*held)[1], 0, 1));
  EXPECT_EQ(client_->GetStats()->chunks, 1u);
}

TEST_P(ConformanceTest, CommitIsChecked) {
  const auto session = client_->OpenSession("s", model_, {});
  CommitChunk chunk;
  chunk.hash = HashBytes("a lie");
  chunk.token_ids.assign(g_.chunk_tokens, 1);
  chunk.blocks = *client_->Reserve(g_.layers);
  EXPECT_EQ(client_->Commit(*session, std::move(chunk)).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->Reserve(0).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->OpenSession(".hidden", model_, {}).status().code(), StatusCode::kInvalidArgument);
}

TEST_P(ConformanceTest, ReserveIsRefusedWhenAllIsHeldAndWorksAgainAfterRelease) {
  auto all = client_->Reserve(kSlots);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(client_->Reserve(1).status().code(), StatusCode::kResourceExhausted);
  all->pop_back();
  EXPECT_TRUE(client_->Reserve(1).ok());
}

TEST_P(ConformanceTest, SummariesComeInOrderAndStopAtTheFirstThatIsMissing) {
  const auto session = client_->OpenSession("s", model_, {});
  for (uint32_t i = 0; i < 2; ++i) ASSERT_TRUE(Commit(*session, i).ok());
  for (int round = 0; round < 2; ++round) {
    std::vector<std::string> seen;
    ASSERT_TRUE(
        client_
            ->GetSummaries(Hashes(4),
                           [&](const ChunkHash& hash, const std::string& method, const std::string& data) {
                             EXPECT_EQ(hash, Hashes(4)[seen.size()]);
                             EXPECT_EQ(method, "mean");
                             seen.push_back(data);
                           })
            .ok());
    EXPECT_EQ(seen, std::vector<std::string>({"summary 0", "summary 1"}));
    drop_ram_();
  }
}

TEST_P(ConformanceTest, HoldsStayReadableWhateverHappensToTheirChunk) {
  const auto session = client_->OpenSession("s", model_, {});
  ASSERT_TRUE(Commit(*session, 0).ok());
  ASSERT_TRUE(client_->UpdateSession(*session, Hashes(1), {}).ok());
  auto held = client_->Fetch({{Hashes(1)[0], 2}, {Hashes(1)[0], 2}});
  ASSERT_TRUE(held.ok()) << held.status();
  ASSERT_TRUE(client_->CloseSession(*session).ok());
  ASSERT_TRUE(client_->DeleteSession("s").ok());
  drop_ram_();
  (*held)[0].block.Reset();
  EXPECT_TRUE(Holds((*held)[1].block, 0, 2));
  EXPECT_EQ((*client_->Fetch({{Hashes(1)[0], 2}}))[0].status.code(), StatusCode::kNotFound);
}

TEST_P(ConformanceTest, StaleEpochCommitsNothing) {
  auto session = client_->OpenSession("s", model_, {});
  ASSERT_TRUE(session.ok());
  ++session->epoch;
  EXPECT_EQ(Commit(*session, 0).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(client_->GetStats()->chunks, 0u);
}

TEST_P(ConformanceTest, ManyBlocksInOneFetch) {
  const auto session = client_->OpenSession("s", model_, {});
  constexpr uint32_t kChunks = 20;
  std::vector<BlockName> names;
  for (uint32_t i = 0; i < kChunks; ++i) {
    ASSERT_TRUE(Commit(*session, i).ok());
    for (uint32_t l = 0; l < g_.layers; ++l) names.push_back({Hashes(i + 1)[i], l});
  }
  drop_ram_();
  const auto got = client_->Fetch(names);
  ASSERT_TRUE(got.ok()) << got.status();
  for (size_t i = 0; i < names.size(); ++i)
    EXPECT_TRUE(Holds((*got)[i].block, static_cast<uint32_t>(i) / g_.layers, names[i].layer)) << i;
}

std::string NameOf(Way way) {
  switch (way) {
    case Way::kMemory: return "Memory";
    case Way::kArena: return "Arena";
    case Way::kRing: return "Ring";
    case Way::kBytes: return "Bytes";
  }
  return "";
}

INSTANTIATE_TEST_SUITE_P(Ways, ConformanceTest,
                         ::testing::Values(Way::kMemory, Way::kArena, Way::kRing, Way::kBytes),
                         [](const auto& info) { return NameOf(info.param); });

TEST(MemoryKvClient, Hooks) {
  MemoryKvClient client(SmallGeometry());
  client.FailNext(absl::UnavailableError("as asked"));
  EXPECT_EQ(client.Reserve(1).status().code(), StatusCode::kUnavailable);
  EXPECT_TRUE(client.Reserve(1).ok());
  client.SetConnected(false);
  EXPECT_FALSE(client.connected());
  EXPECT_EQ(client.Reserve(1).status().code(), StatusCode::kUnavailable);
  client.SetConnected(true);
  client.SetReclaim(5);
  EXPECT_EQ(client.TakeReclaim(), 5u);
  EXPECT_EQ(client.TakeReclaim(), 0u);
}

}  // namespace
}  // namespace hga
