// kv_store is killed with SIGKILL under load, again and again: what it acknowledged as durable is there each time, in
// its own bytes, and nothing else is served. HGA_KILLS kills, 10 by default.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kv_store/client/grpc_kv_client.h"
#include "tests/support/kv_store_process.h"
#include "tests/support/patience.h"

namespace hga {
namespace {

constexpr int kWriters = 3;
constexpr uint32_t kSharedChunks = 3;   // the same beginning in every session
constexpr uint32_t kLongest = 24;       // chunks of a session, before it is deleted and another begins
constexpr int kCommitsBetweenKills = 25;

KvGeometry Geometry() {
  KvGeometry g;
  g.layers = 4;
  g.query_heads = 2;
  g.kv_heads = 2;
  g.head_dim = 32;
  return g;
}

int Kills() {
  const char* set = std::getenv("HGA_KILLS");
  int kills = 10;
  if (set != nullptr && !absl::SimpleAtoi(set, &kills)) ADD_FAILURE() << "HGA_KILLS is no number: " << set;
  return kills;
}

// Chunk i of a writer's n-th document.
std::vector<uint32_t> Tokens(int writer, uint32_t document, uint32_t chunks) {
  const KvGeometry g = Geometry();
  std::vector<uint32_t> tokens;
  for (uint32_t i = 0; i < chunks; ++i) {
    const uint32_t id = i < kSharedChunks ? i : 1000000 * (writer + 1) + 100 * document + i;
    tokens.insert(tokens.end(), g.chunk_tokens, id);
  }
  return tokens;
}

void FillBlock(const ChunkHash& chunk, uint32_t layer, void* out) {
  std::mt19937 random(chunk.bytes[0] | chunk.bytes[1] << 8 | chunk.bytes[2] << 16 | layer << 24);
  uint32_t* words = static_cast<uint32_t*>(out);
  for (size_t i = 0; i < Geometry().block_bytes() / 4; ++i) words[i] = random();
}

bool IsBlock(const ChunkHash& chunk, uint32_t layer, const void* data) {
  std::vector<uint8_t> expected(Geometry().block_bytes());
  FillBlock(chunk, layer, expected.data());
  return std::memcmp(expected.data(), data, Geometry().block_bytes()) == 0;
}

absl::Status StatusOf(const absl::Status& status) { return status; }
template <typename T>
absl::Status StatusOf(const absl::StatusOr<T>& answer) {
  return answer.status();
}
bool IsUnanswered(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

// For calls to a store that serves: a deadline passed, on a machine that was stopped for one, is no answer.
template <typename Call>
auto Answered(Call&& call) {
  auto answer = call();
  for (Patience patience; patience.Lasts() && IsUnanswered(StatusOf(answer)); answer = call()) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  return answer;
}

// What a writer has been told is durable.
struct Acknowledged {
  uint32_t document = 0;
  uint32_t manifest_chunks = 0;  // of the session
  bool deleting = false;         // between a call to delete it and the answer
};

class KillTest : public ::testing::Test {
 protected:
  KillTest() : store_({"--arena_bytes=6MiB", "--commit_ack=disk"}) {}

  std::unique_ptr<GrpcKvClient> Attach() {
    GrpcKvClientOptions options{store_.address(), "kill_test", g_};
    auto client = Answered([&] { return GrpcKvClient::Attach(options); });
    EXPECT_TRUE(client.ok()) << client.status() << store_.log();
    return client.ok() ? *std::move(client) : nullptr;
  }

  void Write(int writer) {
    const auto client = Attach();
    if (client == nullptr) return;
    while (!stop_) {
      std::shared_lock<std::shared_mutex> running(gate_);
      if (!WriteOne(writer, client.get())) {
        running.unlock();
        absl::SleepFor(absl::Milliseconds(5));  // the store is away
      }
    }
  }

  // Opens the writer's session, goes on with it until something fails or it is long enough, and then deletes it.
  bool WriteOne(int writer, GrpcKvClient* client) {
    Acknowledged& acked = acked_[writer];
    const std::string name = absl::StrCat("w", writer);
    if (acked.deleting) {  // the answer was lost: done or not, it is to go
      const absl::Status status = client->DeleteSession(name);
      if (!status.ok() && !absl::IsNotFound(status)) return false;
      acked = {acked.document + 1, 0, false};
    }
    const std::vector<uint32_t> tokens = Tokens(writer, acked.document, kLongest);
    const std::vector<ChunkHash> hashes = ChunkHashes(model_, g_, tokens);
    const auto session = client->OpenSession(name, model_, hashes);
    if (!session.ok()) return false;
    EXPECT_GE(session->matched_chunks, acked.manifest_chunks) << "durable chunks of " << name << " are gone";
    const bool complete = Extend(client, *session, hashes, tokens, &acked);
    if (!client->CloseSession(*session).ok() || !complete) return false;
    acked.deleting = true;
    if (!client->DeleteSession(name).ok()) return false;
    acked = {acked.document + 1, 0, false};
    return true;
  }

  bool Extend(GrpcKvClient* client, const OpenedSession& session, const std::vector<ChunkHash>& hashes,
              const std::vector<uint32_t>& tokens, Acknowledged* acked) {
    for (uint32_t i = session.matched_chunks; i < kLongest; ++i) {
      if (stop_ || !CommitChunkOf(client, session, hashes, tokens, i)) return false;
      if (!client->UpdateSession(session, absl::MakeConstSpan(hashes).subspan(0, i + 1), {}).ok()) return false;
      acked->manifest_chunks = i + 1;
      ++commits_;
      if (!ReadOne(client, hashes[Random() % (i + 1)])) return false;
    }
    return true;
  }

  bool CommitChunkOf(GrpcKvClient* client, const OpenedSession& session, const std::vector<ChunkHash>& hashes,
                     const std::vector<uint32_t>& tokens, uint32_t i) {
    auto blocks = client->Reserve(g_.layers);
    while (absl::IsResourceExhausted(blocks.status()) && !stop_) blocks = client->Reserve(g_.layers);
    if (!blocks.ok()) return false;
    CommitChunk chunk;
    chunk.hash = hashes[i];
    chunk.parent = i == 0 ? SeedHash(model_, g_) : hashes[i - 1];
    chunk.token_ids.assign(tokens.begin() + i * g_.chunk_tokens, tokens.begin() + (i + 1) * g_.chunk_tokens);
    for (uint32_t layer = 0; layer < g_.layers; ++layer) FillBlock(hashes[i], layer, (*blocks)[layer].data());
    chunk.blocks = *std::move(blocks);
    chunk.summary_method = "mean";
    chunk.summary = hashes[i].ToHex();
    return client->Commit(session, std::move(chunk)).ok();
  }

  // Whatever is served is right.
  bool ReadOne(GrpcKvClient* client, const ChunkHash& chunk) {
    std::vector<BlockName> names;
    for (uint32_t layer = 0; layer < g_.layers; ++layer) names.push_back({chunk, layer});
    const auto got = client->Fetch(names);
    if (!got.ok()) return false;
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      const FetchedBlock& block = (*got)[layer];
      if (block.status.ok()) {
        EXPECT_TRUE(IsBlock(chunk, layer, block.block.data())) << "wrong bytes served";
      }
      EXPECT_FALSE(absl::IsDataLoss(block.status)) << block.status;
    }
    return true;
  }

  // With the writers held: everything acknowledged is there.
  void CheckAll(GrpcKvClient* client) {
    for (int writer = 0; writer < kWriters; ++writer) {
      const Acknowledged& acked = acked_[writer];
      if (acked.manifest_chunks == 0 || acked.deleting) continue;
      const auto tokens = Answered([&] { return client->GetSession(absl::StrCat("w", writer), model_); });
      ASSERT_TRUE(tokens.ok()) << tokens.status() << store_.log();
      const std::vector<uint32_t> expected = Tokens(writer, acked.document, kLongest);
      ASSERT_GE(tokens->size(), acked.manifest_chunks * g_.chunk_tokens);
      EXPECT_TRUE(std::equal(tokens->begin(), tokens->end(), expected.begin()));
      for (const ChunkHash& chunk : ChunkHashes(model_, g_, Tokens(writer, acked.document, acked.manifest_chunks))) {
        for (uint32_t layer = 0; layer < g_.layers; ++layer) {
          const auto got = Answered([&] { return client->Fetch({{chunk, layer}}); });
          ASSERT_TRUE(got.ok()) << got.status();
          ASSERT_TRUE((*got)[0].status.ok()) << "a durable block is gone: " << (*got)[0].status << store_.log();
          ASSERT_TRUE(IsBlock(chunk, layer, (*got)[0].block.data())) << "a durable block came back changed";
          ++blocks_checked_;
        }
      }
    }
  }

  const KvGeometry g_ = Geometry();
  const ModelFingerprint model_ = HashBytes("model");
  KvStoreProcess store_;
  std::shared_mutex gate_;  // exclusive: the writers wait
  Acknowledged acked_[kWriters];
  std::atomic<bool> stop_{false};
  std::atomic<int> commits_{0};
  std::atomic<uint32_t> seed_{1};
  uint64_t blocks_checked_ = 0;
  uint32_t Random() { return seed_.fetch_add(2654435761u) >> 7; }
};

TEST_F(KillTest, NothingAcknowledgedIsLost) {
  ASSERT_EQ(store_.Start(), absl::OkStatus());
  std::vector<std::thread> writers;
  for (int writer = 0; writer < kWriters; ++writer) writers.emplace_back([this, writer] { Write(writer); });
  const int kills = Kills();
  for (int kill = 0; kill < kills && !HasFailure(); ++kill) {
    const int until = commits_ + 1 + static_cast<int>(Random() % kCommitsBetweenKills);
    for (Patience patience; commits_ < until && patience.Lasts(static_cast<uint64_t>(commits_));) {
      absl::SleepFor(absl::Microseconds(300));
    }
    EXPECT_GE(commits_, until) << "the writers do not get on\n" << store_.log();
    store_.Kill();
    std::unique_lock<std::shared_mutex> quiet(gate_);
    ASSERT_EQ(store_.Start(), absl::OkStatus());
    const auto client = Attach();
    if (client != nullptr) CheckAll(client.get());
  }
  stop_ = true;
  for (std::thread& writer : writers) writer.join();
  RecordProperty("blocks_checked", static_cast<int>(blocks_checked_));
  EXPECT_GT(blocks_checked_, static_cast<uint64_t>(kills));

  // All given up: nothing stays behind.
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  KvStoreStats stats;
  for (Patience patience; patience.Lasts();) {  // until the store has noticed that the writers left
    for (int writer = 0; writer < kWriters; ++writer) client->DeleteSession(absl::StrCat("w", writer)).IgnoreError();
    const absl::Status flushed = Answered([&] { return client->Flush(true); });
    ASSERT_TRUE(flushed.ok()) << flushed;
    const auto now = Answered([&] { return client->GetStats(); });
    ASSERT_TRUE(now.ok());
    stats = *now;
    if (stats.chunks == 0 && stats.slots_free == stats.slots_total) break;
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(stats.chunks, 0u);
  EXPECT_EQ(stats.slots_free, stats.slots_total);
}

}  // namespace
}  // namespace hga
