#include "common/rpc/health.h"

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/rpc/channel.h"
#include "common/rpc/daemon.h"
#include "gtest/gtest.h"
#include "prometheus/registry.h"

namespace hga {
namespace {

class HealthTest : public testing::Test {
 protected:
  HealthTest() {
    char folder[] = "/tmp/hga.XXXXXX";
    folder_ = mkdtemp(folder);
    options_.name = "test";
    options_.listen = absl::StrCat("unix:", folder_, "/d.sock");
  }
  ~HealthTest() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
  DaemonOptions options_;
};

TEST_F(HealthTest, ServingIsWhatTheDaemonSays) {
  auto daemon = Daemon::Start(options_, {}, std::make_shared<prometheus::Registry>());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto channel = Connect(options_.listen);
  EXPECT_EQ(CheckHealth(channel, std::chrono::seconds(10)).message(), "health is NOT_SERVING");
  (*daemon)->SetServing(true);
  EXPECT_EQ(CheckHealth(channel, std::chrono::seconds(10)), absl::OkStatus());
}

TEST_F(HealthTest, NobodyThere) {
  const absl::Status status = WaitHealthy(options_.listen, std::chrono::milliseconds(0));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find(options_.listen), absl::string_view::npos) << status;
}

TEST_F(HealthTest, WaitsForOneThatComesLater) {
  absl::Status waited;
  std::thread waiter([&] { waited = WaitHealthy(options_.listen, std::chrono::seconds(60)); });
  auto daemon = Daemon::Start(options_, {}, std::make_shared<prometheus::Registry>());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  (*daemon)->SetServing(true);
  waiter.join();
  EXPECT_EQ(waited, absl::OkStatus());
}

TEST_F(HealthTest, BadAddressIsNotWaitedFor) {
  EXPECT_EQ(WaitHealthy("nonsense", std::chrono::hours(1)).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::InitDaemon("health_test");
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
