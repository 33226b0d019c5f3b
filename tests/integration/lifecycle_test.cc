// What every daemon does besides its work: help, config file, health, metrics, one instance, a clean end.
#include <algorithm>
#include <csignal>
#include <fstream>

#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.h"
#include "gtest/gtest.h"
#include "tests/support/health.h"
#include "tests/support/patience.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

class LifecycleTest : public testing::TestWithParam<std::string> {
 protected:
  struct Result {
    int code = -1;
    std::string output;
  };

  Result RunToEnd(const Stack& stack, const std::vector<std::string>& argv) {
    const std::string log = stack.folder() + "/run.log";
    std::remove(log.c_str());
    auto process = Process::Start(argv, log);
    Result result;
    if (!process.ok()) return result;
    const auto code = process->Wait();
    if (code.ok()) result.code = *code;
    result.output = ReadFileOrEmpty(log);
    return result;
  }

  Process* DaemonOf(Stack& stack) {
    return GetParam() == "kv_store" ? &stack.kv_store : GetParam() == "router" ? &stack.router : &stack.worker;
  }
};

TEST_P(LifecycleTest, HelpNamesItsOptions) {
  Stack stack({});
  const Result help = RunToEnd(stack, {Binary(GetParam() + "/" + GetParam()), "--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* option : {"--listen", "--metrics_listen", "--config"}) {
    EXPECT_NE(help.output.find(option), std::string::npos) << option << "\n" << help.output;
  }
}

TEST_P(LifecycleTest, UnknownOptionAndBadAddressAreRefused) {
  Stack stack({});
  const std::string binary = Binary(GetParam() + "/" + GetParam());
  EXPECT_NE(RunToEnd(stack, {binary, "--no_such_option=1"}).code, 0);
  auto argv = stack.Command(GetParam());
  argv[1] = "--listen=nonsense";
  const Result bad = RunToEnd(stack, argv);
  EXPECT_NE(bad.code, 0);
  EXPECT_NE(bad.output.find("nonsense"), std::string::npos) << bad.output;
}

TEST_P(LifecycleTest, HealthySecondInstanceRefusedSigtermEndsWithZero) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  EXPECT_EQ(CheckHealth(Connect(stack.address(GetParam())), std::chrono::seconds(5)), absl::OkStatus());

  const Result second = RunToEnd(stack, stack.Command(GetParam()));
  EXPECT_EQ(second.code, 1);
  // kv_store meets its locked data first, the others their socket.
  EXPECT_NE(second.output.find(GetParam() == "kv_store" ? "in use by another" : ".sock"), std::string::npos)
      << second.output;
  EXPECT_EQ(CheckHealth(Connect(stack.address(GetParam())), std::chrono::seconds(5)), absl::OkStatus())
      << "the first instance was disturbed";

  DaemonOf(stack)->Signal(SIGTERM);
  const auto code = DaemonOf(stack)->Wait();
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(*code, 0) << stack.log(GetParam());
}

TEST_P(LifecycleTest, ReflectionMetricsAndConfigFile) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto services = ListServices(Connect(stack.address(GetParam())));
  for (const std::string& name : {"hga." + GetParam() + ".v1.", std::string("grpc.health.v1.")}) {
    EXPECT_TRUE(std::any_of(services.begin(), services.end(), [&](const std::string& service) {
      return service.compare(0, name.size(), name) == 0;
    })) << name;
  }

  // The same daemon again, with its metrics page set by a config file.
  DaemonOf(stack)->Signal(SIGTERM);
  ASSERT_TRUE(DaemonOf(stack)->Wait().ok());
  const int port = FreePort();
  const std::string config = stack.folder() + "/config.toml";
  std::ofstream(config) << "metrics_listen = \"127.0.0.1:" << port << "\"\n";
  auto argv = stack.Command(GetParam());
  argv.erase(argv.begin() + 2, argv.begin() + 4);  // --metrics_listen ""
  argv.push_back("--config=" + config);
  auto daemon = Process::Start(argv, stack.folder() + "/again.log");
  ASSERT_TRUE(daemon.ok());
  const std::string prefix = GetParam() == "gpu_worker" ? "hga_worker_" : "hga_" + GetParam() + "_";
  std::string page;
  for (Patience patience; page.find(prefix) == std::string::npos && daemon->running() && patience.Lasts();) {
    absl::SleepFor(absl::Milliseconds(10));
    page = ScrapeMetrics(port);
  }
  EXPECT_NE(page.find("# HELP " + prefix), std::string::npos) << ReadFileOrEmpty(stack.folder() + "/again.log");
}

INSTANTIATE_TEST_SUITE_P(Daemons, LifecycleTest, testing::Values("kv_store", "router", "gpu_worker"),
                         [](const auto& info) { return info.param; });

TEST(WorkerLifecycleTest, SigtermWhileGeneratingEndsTheRequestAndKeepsItsChunks) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const auto request = InSession(TokenRequest(1000, 1, 900), "doc");
  const Answer cut = stack.Generate(request, [&](size_t tokens) {
    if (tokens == 5) stack.worker.Signal(SIGTERM);
    return true;
  });
  const auto code = stack.worker.Wait();
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(*code, 0) << stack.log("gpu_worker");
  EXPECT_EQ(cut.status.code(), absl::StatusCode::kUnavailable) << cut.status;
  ASSERT_EQ(stack.StartWorker(), absl::OkStatus());
  auto again = request;
  again.set_max_tokens(1);
  EXPECT_EQ(stack.Generate(again).started.reused_tokens(), 960u);
}

TEST(WorkerLifecycleTest, StatsCoverAllThreeDaemons) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  ASSERT_TRUE(stack.Generate(InSession(TokenRequest(1000, 1, 8), "doc")).status.ok());
  EXPECT_EQ(stack.WaitForWorker([](const auto& stats) {
    return stats.requests_total() == 1 && stats.decode_tokens_total() == 8 && stats.kv_store().sessions() == 1 &&
           stats.kv_store().chunks_durable() == 15 && stats.router().selections() > 0;
  }),
            absl::OkStatus());
}

TEST(StoreLifecycleTest, SecondStoreOnTheSameDataSaysSo) {
  Stack stack({});
  ASSERT_EQ(stack.StartKvStore(), absl::OkStatus());
  auto argv = stack.Command("kv_store");
  argv[1] = "--listen=unix:" + stack.folder() + "/other.sock";
  auto second = Process::Start(argv, stack.folder() + "/second.log");
  ASSERT_TRUE(second.ok());
  const auto code = second->Wait();
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(*code, 1);
  EXPECT_NE(ReadFileOrEmpty(stack.folder() + "/second.log").find("/data"), std::string::npos)
      << ReadFileOrEmpty(stack.folder() + "/second.log");
}

}  // namespace
}  // namespace hga
