// `hga store` as a user runs it, on a store that the real kv_store wrote.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "kv_store/client/grpc_kv_client.h"
#include "nlohmann/json.hpp"
#include "tests/support/kv_store_process.h"

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

  // Five chunks and a tail under the name "book".
  void WriteSession() {
    auto client = GrpcKvClient::Attach({store_.address(), "test", g_});
    ASSERT_TRUE(client.ok()) << client.status();
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < 5 * g_.chunk_tokens; ++i) tokens.push_back(i);
    const std::vector<ChunkHash> hashes = ChunkHashes(model_, g_, tokens);
    const auto session = (*client)->OpenSession("book", model_, {});
    ASSERT_TRUE(session.ok());
    for (uint32_t i = 0; i < 5; ++i) {
      CommitChunk chunk;
      chunk.hash = hashes[i];
      chunk.parent = i == 0 ? SeedHash(model_, g_) : hashes[i - 1];
      chunk.token_ids.assign(tokens.begin() + i * g_.chunk_tokens, tokens.begin() + (i + 1) * g_.chunk_tokens);
      auto blocks = (*client)->Reserve(g_.layers);
      ASSERT_TRUE(blocks.ok()) << blocks.status();
      chunk.blocks = *std::move(blocks);
      for (HeldBlock& block : chunk.blocks) std::memset(block.data(), static_cast<int>(i + 1), g_.block_bytes());
      chunk.summary_method = "mean";
      chunk.summary = "s";
      ASSERT_TRUE((*client)->Commit(*session, std::move(chunk)).ok());
    }
    ASSERT_TRUE((*client)->UpdateSession(*session, hashes, {1, 2, 3}).ok());
    ASSERT_TRUE((*client)->Flush(/*drop_ram=*/false).ok());
  }
  void StopStore() {
    store_.process().Signal(SIGTERM);
    ASSERT_TRUE(store_.process().Wait(absl::Seconds(20)).ok());
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
  const Result busy = Hga("compact");
  EXPECT_EQ(busy.exit_code, 1);
  EXPECT_NE(busy.output.find("in use by another kv_store"), std::string::npos) << busy.output;
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

}  // namespace
}  // namespace hga
