// Bytes of a real store flipped under the three daemons: the answers are those of an undamaged store.
#include <csignal>
#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

constexpr uint32_t kPrompt = 1500;
constexpr int kFlipsPerFile = 3;

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

absl::Status StopKvStore(Stack* stack) {
  stack->kv_store.Signal(SIGTERM);
  return stack->kv_store.Wait(absl::Seconds(10)).status();
}

absl::Status RestartKvStore(Stack* stack) {
  absl::Status status = stack->StartKvStore();
  if (!status.ok()) return status;
  return stack->WaitForWorker([](const auto& stats) { return stats.kv_store_attached(); });
}

TEST(DamageTest, FlippedBytesOnDiskChangeNoToken) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = InSession(Routed(TokenRequest(kPrompt, 11, 32), 0.2f), "doc");
  const Answer before = stack.Generate(request);
  ASSERT_TRUE(before.status.ok()) << before.status;
  // What is still in RocksDB's log goes to blob files when the store opens again.
  ASSERT_EQ(StopKvStore(&stack), absl::OkStatus());
  ASSERT_EQ(RestartKvStore(&stack), absl::OkStatus());
  ASSERT_EQ(StopKvStore(&stack), absl::OkStatus());
  ASSERT_GT(DamageBlobs(stack.folder() + "/data"), 0);
  ASSERT_EQ(RestartKvStore(&stack), absl::OkStatus()) << stack.log("kv_store");

  const Answer after = stack.Generate(request);
  ASSERT_TRUE(after.status.ok()) << after.status << stack.log("gpu_worker") << stack.log("kv_store");
  EXPECT_EQ(after.tokens, before.tokens);
  grpc::ClientContext context;
  kv_store::v1::GetStatsResponse stats;
  ASSERT_TRUE(stack.kv_store_stub()->GetStats(&context, {}, &stats).ok());
  EXPECT_GT(stats.checksum_errors(), 0u) << "the damage was not met";

  // Computed again and whole now.
  ASSERT_EQ(StopKvStore(&stack), absl::OkStatus());
  ASSERT_EQ(RestartKvStore(&stack), absl::OkStatus());
  const Answer again = stack.Generate(request);
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_EQ(again.tokens, before.tokens);
}

}  // namespace
}  // namespace hga
