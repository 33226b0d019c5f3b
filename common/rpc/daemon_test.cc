#include "common/rpc/daemon.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

std::string NewSocket() {
  char folder[] = "/tmp/hga.XXXXXX";
  return absl::StrCat("unix:", mkdtemp(folder), "/d.sock");
}

absl::StatusOr<std::unique_ptr<Daemon>> Start(const std::string& address) {
  DaemonOptions options;
  options.name = "test";
  options.listen = address;
  return Daemon::Start(options, {}, std::make_shared<prometheus::Registry>());
}

TEST(DaemonTest, SecondInstanceOnTheSameSocketIsRefused) {
  const std::string address = NewSocket();
  auto first = Start(address);
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = Start(address);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  first->reset();
  EXPECT_TRUE(Start(address).ok());
}

TEST(DaemonTest, SecondInstanceOnTheSamePortIsRefused) {
  auto first = Start("127.0.0.1:0");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_FALSE(Start((*first)->address()).ok());
}

TEST(DaemonTest, SocketIsItsOwnersAlone) {
  const std::string address = NewSocket();
  auto daemon = Start(address);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  struct stat info;
  ASSERT_EQ(::stat(address.substr(5).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600);
}

TEST(DaemonTest, BadAddressesAreRefused) {
  for (const std::string& address : {std::string("nonsense"), std::string("unix:"), std::string("host:70000"),
                                    "unix:/" + std::string(200, 'x')}) {
    EXPECT_EQ(Start(address).status().code(), absl::StatusCode::kInvalidArgument)
        << address;
  }
}

TEST(DaemonTest, SigtermDrains) {
  auto daemon = Start(NewSocket());
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  bool drained = false;
  std::thread runner([&] { (*daemon)->RunUntilSignal([&] { drained = true; }); });
  ::kill(::getpid(), SIGTERM);  // blocked everywhere since main(), so sigwait takes it whenever it gets there
  runner.join();
  EXPECT_TRUE(drained);
}

TEST(StatusTest, CodesAndMessagesSurviveTheEdge) {
  const absl::Status status = absl::ResourceExhaustedError("arena full");
  EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  EXPECT_TRUE(FromGrpc(ToGrpc(absl::OkStatus())).ok());
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::InitDaemon("daemon_test");
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
