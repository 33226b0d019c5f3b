#include "client/connection.h"

#include <grpcpp/client_context.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(ConnectionTest, DefaultAddress) {
  unsetenv("HGA_WORKER");
  const std::filesystem::path root = std::filesystem::path(testing::TempDir()) / "checkout";
  std::filesystem::create_directories(root / "a/b");
  EXPECT_EQ(DefaultWorkerAddress((root / "a/b").string()), "unix:/run/hga/gpu_worker.sock");
  std::filesystem::create_directories(root / ".hga/run");
  std::ofstream(root / ".hga/run/worker_address") << "unix:/somewhere/w.sock\n";
  EXPECT_EQ(DefaultWorkerAddress(root.string()), "unix:/somewhere/w.sock");
  EXPECT_EQ(DefaultWorkerAddress((root / "a/b").string()), "unix:/somewhere/w.sock");
  setenv("HGA_WORKER", "localhost:9", 1);
  EXPECT_EQ(DefaultWorkerAddress(root.string()), "localhost:9");
  EXPECT_EQ(DefaultWorkerAddress(""), "localhost:9");
  unsetenv("HGA_WORKER");
  EXPECT_EQ(DefaultWorkerAddress(""), "unix:/run/hga/gpu_worker.sock");
}

TEST(ConnectionTest, ATimeoutThatIsNoNumberIsNone) {
  grpc::ClientContext context;
  SetTimeout(std::nan(""), &context);
  EXPECT_EQ(context.deadline(), std::chrono::system_clock::time_point::max());
}

TEST(ConnectionTest, Refusals) {
  EXPECT_EQ(ConnectToWorker("unix:/tmp/hga.nobody/w.sock").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ConnectToWorker("nowhere").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hga
