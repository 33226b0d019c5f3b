// A request's id goes from the caller through the worker to kv_store and the router, and into the logs of all three.
#include <regex>
#include <sstream>

#include "common/rpc/request_metadata.h"
#include "common/rpc/status.h"
#include "gtest/gtest.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

constexpr const char* kDaemons[] = {"gpu_worker", "kv_store", "router"};

struct Ended {
  absl::Status status;
  std::string id_in_metadata, id_in_finished;
};

Ended Call(const Stack& stack, const gpu_worker::v1::GenerateRequest& request, const std::string& id) {
  grpc::ClientContext context;
  if (!id.empty()) context.AddMetadata(kRequestIdKey, id);
  const auto stub = stack.worker_stub();
  const auto reader = stub->Generate(&context, request);
  Ended ended;
  gpu_worker::v1::GenerateEvent event;
  while (reader->Read(&event)) {
    if (event.has_finished()) ended.id_in_finished = event.finished().request_id();
  }
  ended.status = FromGrpc(reader->Finish());
  ended.id_in_metadata = RequestIdIn(context.GetServerInitialMetadata());
  return ended;
}

std::vector<std::string> LinesWith(const Stack& stack, const std::string& daemon, const std::string& what) {
  std::istringstream log(stack.log(daemon));
  std::vector<std::string> lines;
  for (std::string line; std::getline(log, line);) {
    if (line.find(what) != std::string::npos) lines.push_back(line);
  }
  return lines;
}

TEST(LogsTest, ACallersIdIsInAllThreeLogs) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const Ended ended = Call(stack, InSession(TokenRequest(1000, 1, 8), "doc"), "asked-by.me-1");
  ASSERT_EQ(ended.status, absl::OkStatus());
  EXPECT_EQ(ended.id_in_metadata, "asked-by.me-1");
  EXPECT_EQ(ended.id_in_finished, "asked-by.me-1");
  for (const char* daemon : kDaemons) {
    EXPECT_EQ(LinesWith(stack, daemon, "request_id=asked-by.me-1").size(), 1u) << stack.log(daemon);
  }
  EXPECT_EQ(LinesWith(stack, "gpu_worker", "prompt_tokens=1000").size(), 1u) << stack.log("gpu_worker");
}

TEST(LogsTest, AnIdIsMadeWhereThereIsNoneOrABadOne) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  for (const std::string bad : {"", "two words", "a=\"b\""}) {
    const Ended ended = Call(stack, TokenRequest(10, 1, 1), bad);
    ASSERT_EQ(ended.status, absl::OkStatus());
    EXPECT_EQ(ended.id_in_metadata.size(), 16u) << bad;
    EXPECT_EQ(ended.id_in_metadata, ended.id_in_finished);
    EXPECT_EQ(LinesWith(stack, "kv_store", "request_id=" + ended.id_in_metadata).size(), 1u) << stack.log("kv_store");
  }
}

TEST(LogsTest, ARefusedRequestIsLoggedWithItsId) {
  Stack stack({});
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  auto request = TokenRequest(10, 1, 1);
  request.mutable_sampling()->set_temperature(-1);
  const Ended ended = Call(stack, request, "");
  EXPECT_EQ(ended.status.code(), absl::StatusCode::kInvalidArgument);
  const auto lines = LinesWith(stack, "gpu_worker", "request_id=" + ended.id_in_metadata);
  ASSERT_EQ(lines.size(), 1u) << stack.log("gpu_worker");
  EXPECT_NE(lines[0].find("code=INVALID_ARGUMENT"), std::string::npos) << lines[0];
}

TEST(LogsTest, DebugShowsEveryCallLinesAreWellFormedAndHoldNoPrompt) {
  StackOptions options;
  for (auto* flags : {&options.kv_store_flags, &options.router_flags, &options.worker_flags}) {
    flags->push_back("--log_level=debug");
  }
  Stack stack(options);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  gpu_worker::v1::GenerateRequest request = TokenRequest(1, 1, 1);
  request.set_text("Unmistakable prompt of a user. " + RandomText(200, 1));
  request.set_max_tokens(4);
  ASSERT_EQ(Call(stack, request, "debugged").status, absl::OkStatus());
  EXPECT_GE(LinesWith(stack, "kv_store", "request_id=debugged").size(), 4u);  // open, reserve, commit, close
  EXPECT_GE(LinesWith(stack, "router", "method=AppendSummaries").size(), 1u);
  const std::regex well_formed("time=\\S+Z level=(debug|info|warning|error) daemon=\\w+ "
                               "msg=(\\S+|\"([^\"\\\\]|\\\\.)*\")( \\w+=(\"([^\"\\\\]|\\\\.)*\"|[^\\s\"=]+))*");
  for (const char* daemon : kDaemons) {
    for (const std::string& line : LinesWith(stack, daemon, "")) {
      EXPECT_TRUE(std::regex_match(line, well_formed)) << line;
      EXPECT_EQ(line.find("Unmistakable"), std::string::npos) << line;
    }
  }
}

}  // namespace
}  // namespace hga
