// Bytes of a real store flipped under the three daemons, before an answer and in the middle of one, and a store killed
// in the middle of one: the answers are those of an undisturbed store.
#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"
#include "tests/quality/tiny_model/trained_model.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

constexpr uint32_t kPrompt = 1500;
constexpr int kFlipsPerFile = 3;
constexpr size_t kDisturbAt = 8;  // tokens of an answer

// Flips a few bytes in the middle of the blob files of a store; returns how many.
int DamageBlobs(const std::string& data_dir) {
  int flips = 0;
  for (const auto& entry : std::filesystem::directory_iterator(data_dir)) {
    if (entry.path().extension() != ".blob") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    const auto size = static_cast<std::streamoff>(entry.file_size());
    for (int i = 1; i < kFlipsPerFile; ++i) {
      const std::streamoff at = size * i / kFlipsPerFile;
      file.seekg(at);
      const int byte = file.get();
      file.seekp(at);
      file.put(static_cast<char>(byte ^ 0x55));
      ++flips;
    }
  }
  return flips;
}

uint64_t ChecksumErrors(const Stack& stack) {
  grpc::ClientContext context;
  kv_store::v1::GetStatsResponse stats;
  EXPECT_TRUE(stack.kv_store_stub()->GetStats(&context, {}, &stats).ok());
  return stats.checksum_errors();
}

absl::Status StopKvStore(Stack* stack) {
  stack->kv_store.Signal(SIGTERM);
  return stack->kv_store.Wait().status();
}

TEST(DamageTest, FlippedBytesOnDiskChangeNoToken) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = InSession(Routed(TokenRequest(kPrompt, 11, 32), 0.2f), "doc");
  const Answer before = stack.Generate(request);
  ASSERT_TRUE(before.status.ok()) << before.status;
  // What is still in RocksDB's log goes to blob files when the store opens again.
  ASSERT_EQ(StopKvStore(&stack), absl::OkStatus());
  ASSERT_EQ(stack.RestartKvStore(), absl::OkStatus());
  ASSERT_EQ(StopKvStore(&stack), absl::OkStatus());
  ASSERT_GT(DamageBlobs(stack.folder() + "/data"), 0);
  ASSERT_EQ(stack.RestartKvStore(), absl::OkStatus()) << stack.log("kv_store");

  const Answer after = stack.Generate(request);
  ASSERT_TRUE(after.status.ok()) << after.status << stack.log("gpu_worker") << stack.log("kv_store");
  EXPECT_EQ(after.tokens, before.tokens);
  EXPECT_GT(ChecksumErrors(stack), 0u) << "the damage was not met";

  // Computed again and whole now.
  ASSERT_EQ(StopKvStore(&stack), absl::OkStatus());
  ASSERT_EQ(stack.RestartKvStore(), absl::OkStatus());
  const Answer again = stack.Generate(request);
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_EQ(again.tokens, before.tokens);
}

// Every step attends the whole history, for which the arena has no room: each block comes from RocksDB again and again.
class MiddleOfAnAnswerTest : public testing::Test {
 protected:
  MiddleOfAnAnswerTest() : stack_(TightOptions()) {
    request_ = InSession(Routed(TokenRequest(kPrompt, 12, 30), 1.0f), "doc");
    request_.mutable_sampling()->set_temperature(1);  // the slightest other logits give another token
  }
  static StackOptions TightOptions() {
    StackOptions options;
    options.model = kTrainedModelPath;
    options.arena_bytes = "1MiB";  // 64 slots for 24 chunks in 4 layers
    return options;
  }

  Stack stack_;
  gpu_worker::v1::GenerateRequest request_;
};

TEST_F(MiddleOfAnAnswerTest, NeitherAKilledStoreNorFlippedBytesChangeAToken) {
  ASSERT_EQ(stack_.Start(), absl::OkStatus());
  const Answer expected = stack_.Generate(request_);
  ASSERT_TRUE(expected.status.ok()) << expected.status << stack_.log("gpu_worker");

  const Answer cut = stack_.Generate(request_, [&](size_t tokens) {
    if (tokens == kDisturbAt) stack_.kv_store.Signal(SIGKILL);
    return true;
  });
  ASSERT_TRUE(stack_.kv_store.Wait().ok());
  EXPECT_EQ(cut.status.code(), absl::StatusCode::kUnavailable) << cut.status;
  ASSERT_GE(cut.tokens.size(), kDisturbAt);
  ASSERT_LT(cut.tokens.size(), expected.tokens.size()) << "the store was not needed any more";
  EXPECT_TRUE(std::equal(cut.tokens.begin(), cut.tokens.end(), expected.tokens.begin()));

  // What was still in RocksDB's log goes to blob files when the store opens again.
  ASSERT_EQ(stack_.RestartKvStore(), absl::OkStatus());
  int flips = 0;
  const Answer damaged = stack_.Generate(request_, [&](size_t tokens) {
    if (tokens == kDisturbAt) flips = DamageBlobs(stack_.folder() + "/data");
    return true;
  });
  ASSERT_GT(flips, 0);
  ASSERT_TRUE(damaged.status.ok()) << damaged.status << stack_.log("gpu_worker") << stack_.log("kv_store");
  EXPECT_GT(damaged.started.reused_tokens(), 0u);
  EXPECT_EQ(damaged.tokens, expected.tokens);
  EXPECT_GT(ChecksumErrors(stack_), 0u) << "the damage was not met";
  EXPECT_GT(damaged.finished.tiers().recomputed(), 0u);

  // Whole again, in the store as well.
  const Answer again = stack_.Generate(request_);
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_EQ(again.tokens, expected.tokens);
  EXPECT_EQ(again.finished.tiers().recomputed(), 0u);
}

}  // namespace
}  // namespace hga
