// `hga store` as a user runs it, on a store that the real kv_store wrote.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kv_store/client/grpc_kv_client.h"
#include "nlohmann/json.hpp"
#include "tests/support/kv_store_process.h"
#include "tests/support/patience.h"

namespace hga {
namespace {

struct Result {
  int exit_code;
  std::string output;  // both streams
};

class StoreToolTest : public ::testing::Test {
 protected:
  StoreToolTest() : store_({"--arena_bytes=4MiB", "--commit_ack=disk"}) {
    g_.layers = 2;
    g_.query_heads = g_.kv_heads = 1;
    g_.head_dim = 32;
  }

  Result Hga(const std::string& arguments, const std::string& data_dir = "") {
    const std::string binary = std::string(std::getenv("TEST_SRCDIR")) + "/hga_serve/client/hga";
    const std::string folder = data_dir.empty() ? store_.data_dir() : data_dir;
    const std::string flags = " --quiet --json --data_dir=" + folder + " 2>&1";
    FILE* pipe = ::popen((binary + " store " + arguments + flags).c_str(), "r");
    if (pipe == nullptr) return {-1, ""};
    std::string output;
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
    return {WEXITSTATUS(::pclose(pipe)), output};
  }
  static nlohmann::json Json(const Result& result) {
    return nlohmann::json::parse(result.output.substr(0, result.output.find('\n')), nullptr, false);
  }

  std::vector<uint32_t> Tokens(uint32_t chunks, uint32_t first) const {
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < chunks * g_.chunk_tokens; ++i) tokens.push_back(first + i);
    return tokens;
  }
  // Chunks, by default five, and a tail, by default under the name "book".
  void WriteSession() { WriteSession(store_.address(), "book", 5, 0); }
  void WriteSession(const std::string& address, const std::string& name, uint32_t chunks, uint32_t first) {
    auto client = GrpcKvClient::Attach({address, "test", g_});
    ASSERT_TRUE(client.ok()) << client.status();
    const std::vector<uint32_t> tokens = Tokens(chunks, first);
    const std::vector<ChunkHash> hashes = ChunkHashes(model_, g_, tokens);
    const auto session = (*client)->OpenSession(name, model_, {});
    ASSERT_TRUE(session.ok());
    for (uint32_t i = 0; i < chunks; ++i) {
      CommitChunk chunk;
      chunk.hash = hashes[i];
      chunk.parent = i == 0 ? SeedHash(model_, g_) : hashes[i - 1];
      chunk.token_ids.assign(tokens.begin() + i * g_.chunk_tokens, tokens.begin() + (i + 1) * g_.chunk_tokens);
      auto blocks = (*client)->Reserve(g_.layers);
      ASSERT_TRUE(blocks.ok()) << blocks.status();
      chunk.blocks = *std::move(blocks);
      for (HeldBlock& block : chunk.blocks) std::memset(block.data(), Fill(first, i), g_.block_bytes());
      chunk.summary_method = "mean";
      chunk.summary = "s";
      ASSERT_TRUE((*client)->Commit(*session, std::move(chunk)).ok());
    }
    ASSERT_TRUE((*client)->UpdateSession(*session, hashes, {1, 2, 3}).ok());
    ASSERT_TRUE((*client)->Flush(/*drop_ram=*/false).ok());
  }
  static int Fill(uint32_t first, uint32_t chunk) { return static_cast<int>((first + chunk + 1) & 0xff); }
  // Whether each block of the session's chunks is there in its bytes.
  bool Holds(GrpcKvClient* client, uint32_t chunks, uint32_t first) const {
    uint32_t i = 0;
    for (const ChunkHash& hash : ChunkHashes(model_, g_, Tokens(chunks, first))) {
      for (uint32_t layer = 0; layer < g_.layers; ++layer) {
        const auto got = client->Fetch({{hash, layer}});
        if (!got.ok() || !(*got)[0].status.ok()) return false;
        const std::string expected(g_.block_bytes(), static_cast<char>(Fill(first, i)));
        if (std::memcmp((*got)[0].block.data(), expected.data(), expected.size()) != 0) return false;
      }
      ++i;
    }
    return true;
  }
  uint64_t BlobBytes() const {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(store_.data_dir())) {
      if (entry.path().extension() == ".blob") bytes += entry.file_size();
    }
    return bytes;
  }
  void StopStore() {
    store_.process().Signal(SIGTERM);
    ASSERT_TRUE(store_.process().Wait().ok());
  }

  KvGeometry g_;
  const ModelFingerprint model_ = HashBytes("model");
  KvStoreProcess store_;
};

TEST_F(StoreToolTest, VerifyExportImportCompact) {
  ASSERT_EQ(store_.Start(), absl::OkStatus());
  WriteSession();
  // Beside the daemon: what changes nothing. The store goes on writing meanwhile.
  const Result served = Hga("verify");
  EXPECT_EQ(served.exit_code, 0) << served.output;
  EXPECT_EQ(Json(served)["served"], true);
  EXPECT_EQ(Json(served)["tokens"], 5 * 64 + 3);
  EXPECT_EQ(Json(Hga("stats"))["chunks"], 5);
  EXPECT_EQ(Hga("export book " + store_.folder() + "/served.hga").exit_code, 0);
  StopStore();

  const Result good = Hga("verify");
  ASSERT_EQ(good.exit_code, 0) << good.output;
  EXPECT_EQ(Json(good)["tokens"], 5 * 64 + 3);
  EXPECT_EQ(Json(good)["chunks"], 5);
  EXPECT_EQ(Json(good)["problem_count"], 0);
  EXPECT_EQ(Json(good)["served"], false);
  EXPECT_EQ(Json(Hga("stats"))["sessions"], 1);

  const std::string file = store_.folder() + "/book.hga";
  ASSERT_EQ(Hga("export book " + file).exit_code, 0);
  EXPECT_EQ(Hga("export none " + file + "2").exit_code, 1);
  EXPECT_FALSE(std::filesystem::exists(file + "2"));
  const std::string other = store_.folder() + "/other";
  const Result imported = Hga("import --as copy " + file, other);
  ASSERT_EQ(imported.exit_code, 0) << imported.output;
  EXPECT_EQ(Json(Hga("verify", other))["tokens"], 5 * 64 + 3);
  std::ofstream(file, std::ios::app) << "x";
  EXPECT_EQ(Hga("import --as more " + file, other).exit_code, 1);
  const Result compacted = Hga("compact");
  EXPECT_EQ(compacted.exit_code, 0) << compacted.output;
  EXPECT_EQ(Hga("verify").exit_code, 0);
  EXPECT_EQ(Hga("verify", store_.folder() + "/nowhere").exit_code, 1);
  EXPECT_EQ(Hga("frobnicate").exit_code, 2);

  // The store that was looked after serves on.
  ASSERT_EQ(store_.Start(), absl::OkStatus()) << store_.log();
  const auto client = GrpcKvClient::Attach({store_.address(), "test", g_});
  ASSERT_TRUE(client.ok());
  EXPECT_EQ((*client)->GetSession("book", model_)->size(), 5u * 64 + 3);
}

TEST_F(StoreToolTest, VerifyFindsFlippedBytes) {
  ASSERT_EQ(store_.Start(), absl::OkStatus());
  WriteSession();
  StopStore();
  ASSERT_EQ(Hga("compact").exit_code, 0);  // out of the log, into files
  int flipped = 0;
  for (const auto& entry : std::filesystem::directory_iterator(store_.data_dir())) {
    if (entry.path().extension() != ".blob" || entry.file_size() < 4096) continue;
    std::fstream blob(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    // In a block: halfway, between two of them, are bytes that nobody reads.
    blob.seekp(static_cast<std::streamoff>(entry.file_size() / 3));
    blob.put('\x7f');
    ++flipped;
  }
  ASSERT_GT(flipped, 0);
  const Result bad = Hga("verify");
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_GE(Json(bad)["problem_count"], 1) << bad.output;
  EXPECT_NE(bad.output.find("layer"), std::string::npos) << bad.output;
}

// Beside a daemon that a client reads from all the while: what arrives, what goes, and what an interrupt leaves.
class ServedStoreToolTest : public StoreToolTest {
 protected:
  static constexpr uint32_t kMine = 12, kMineFirst = 0, kBook = 40, kBookFirst = 100000;

  void SetUp() override {
    KvStoreProcess source({"--arena_bytes=4MiB"});
    ASSERT_EQ(source.Start(), absl::OkStatus());
    WriteSession(source.address(), "book", kBook, kBookFirst);
    file_ = store_.folder() + "/book.hga";
    const Result exported = Hga("export book " + file_, source.data_dir());
    ASSERT_EQ(exported.exit_code, 0) << exported.output;
    ASSERT_EQ(store_.Start(), absl::OkStatus());
    WriteSession(store_.address(), "mine", kMine, kMineFirst);
    reader_ = std::thread([this] { ReadOn(); });
  }
  void TearDown() override {
    stop_ = true;
    if (reader_.joinable()) reader_.join();
    EXPECT_EQ(wrong_, 0);
    EXPECT_GT(rounds_, 0);
    StopStore();
    const Result verified = Hga("verify");
    EXPECT_EQ(verified.exit_code, 0) << verified.output;
    EXPECT_EQ(Json(verified)["chunks_of_no_session"], 0);
    EXPECT_EQ(Json(verified)["sessions"], sessions_left_);
  }
  void ReadOn() {
    const auto client = GrpcKvClient::Attach({store_.address(), "reader", g_});
    if (!client.ok()) ++wrong_;
    while (client.ok() && !stop_) {
      if (!Holds(client->get(), kMine, kMineFirst)) ++wrong_;
      if (!(*client)->Flush(/*drop_ram=*/true).ok()) ++wrong_;  // so that the next round reads the disk
      ++rounds_;
    }
  }
  std::unique_ptr<GrpcKvClient> Attach() {
    auto client = GrpcKvClient::Attach({store_.address(), "test", g_});
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }
  bool Lists(GrpcKvClient* client, const std::string& name) {
    const auto sessions = client->ListSessions();
    if (!sessions.ok()) return false;
    return std::any_of(sessions->begin(), sessions->end(), [&](const auto& session) { return session.name == name; });
  }

  std::string file_;
  std::thread reader_;
  std::atomic<bool> stop_{false};
  std::atomic<int> wrong_{0}, rounds_{0};
  int sessions_left_ = 1;
};

TEST_F(ServedStoreToolTest, ImportAndCompact) {
  const Result imported = Hga("import --as copy " + file_);
  ASSERT_EQ(imported.exit_code, 0) << imported.output;
  const auto client = Attach();
  EXPECT_EQ(client->GetSession("copy", model_)->size(), kBook * g_.chunk_tokens + 3u);
  EXPECT_TRUE(Holds(client.get(), kBook, kBookFirst));
  const Result taken = Hga("import --as copy " + file_);
  EXPECT_EQ(taken.exit_code, 1);
  EXPECT_NE(taken.output.find("there is a session 'copy'"), std::string::npos) << taken.output;
  // By address; the folder is not looked at.
  const Result shared =
      Hga("import --as shared --kv_store " + store_.address() + " " + file_, store_.folder() + "/none");
  EXPECT_EQ(shared.exit_code, 0) << shared.output;

  ASSERT_EQ(Hga("compact").exit_code, 0);  // out of the log, into files
  const uint64_t before = BlobBytes();
  ASSERT_TRUE(client->DeleteSession("copy").ok());
  ASSERT_TRUE(client->DeleteSession("shared").ok());
  const Result compacted = Hga("compact");
  EXPECT_EQ(compacted.exit_code, 0) << compacted.output;
  EXPECT_GT(Json(compacted)["disk_bytes"], 0);
  EXPECT_LT(BlobBytes() + kBook * g_.layers * g_.block_bytes() / 2, before);
  EXPECT_TRUE(Holds(client.get(), kMine, kMineFirst));
}

TEST_F(ServedStoreToolTest, AnInterruptedImportLeavesNothing) {
  const auto client = Attach();
  const uint64_t chunks = client->GetStats()->chunks;
  const std::string pipe = store_.folder() + "/pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const std::string hga = std::string(std::getenv("TEST_SRCDIR")) + "/hga_serve/client/hga";
  auto import = Process::Start({hga, "store", "import", pipe, "--as", "half", "--data_dir=" + store_.data_dir()},
                               store_.folder() + "/import.log");
  ASSERT_TRUE(import.ok()) << import.status();
  const std::string bytes = ReadFileOrEmpty(file_);
  const int fd = ::open(pipe.c_str(), O_WRONLY);
  ASSERT_GE(fd, 0);
  const std::string half = bytes.substr(0, bytes.size() / 2);
  ASSERT_EQ(::write(fd, half.data(), half.size()), static_cast<ssize_t>(half.size()));
  Patience patience;
  while (client->GetStats()->chunks < chunks + kBook / 4 && patience.Lasts()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_GE(client->GetStats()->chunks, chunks + kBook / 4) << ReadFileOrEmpty(store_.folder() + "/import.log");
  EXPECT_TRUE(absl::IsNotFound(client->GetSession("half", model_).status()));
  import->Signal(SIGKILL);
  ::close(fd);
  while (client->GetStats()->chunks > chunks && patience.Lasts()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(client->GetStats()->chunks, chunks);
  EXPECT_FALSE(Lists(client.get(), "half"));

  EXPECT_EQ(Hga("import --as half " + file_).exit_code, 0);
  EXPECT_TRUE(Holds(client.get(), kBook, kBookFirst));
  sessions_left_ = 2;
}

}  // namespace
}  // namespace hga
