// Explain over the real daemons: what a session's token attends, computed again from what the store has.
#include <cmath>

#include "gtest/gtest.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

using gpu_worker::v1::ExplainRequest;
using gpu_worker::v1::ExplainResponse;

class ExplainStackTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(stack_.Start(), absl::OkStatus());
    const Answer answer = stack_.Generate(InSession(TokenRequest(kPrompt, 1, 8), "doc"));
    ASSERT_TRUE(answer.status.ok()) << answer.status;
  }

  grpc::Status Call(const ExplainRequest& request, ExplainResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    return stack_.worker_stub()->Explain(&context, request, response);
  }

  ExplainRequest Request(uint32_t layer, uint32_t position) const {
    ExplainRequest request;
    request.set_session("doc");
    request.set_layer(layer);
    request.set_position(position);
    return request;
  }

  static constexpr uint32_t kPrompt = 1500;
  Stack stack_{StackOptions()};
};

void ExpectWhole(const ExplainResponse& e) {
  ASSERT_GT(e.heads_size(), 0);
  for (const auto& head : e.heads()) EXPECT_NEAR(head.always() + head.selected() + head.missed(), 1, 1e-6);
}

TEST_F(ExplainStackTest, TellsWhatWasChosenAndWhatItHas) {
  auto request = Request(1, 1400);
  request.mutable_attention()->set_budget_max_tokens(64);
  request.set_max_chunks(3);
  ExplainResponse e;
  const grpc::Status status = Call(request, &e);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(e.position(), 1400u);
  EXPECT_EQ(e.method().rfind("dealt:", 0), 0u) << e.method();
  EXPECT_TRUE(e.by_router());
  EXPECT_EQ(e.window_start(), 1280u);  // its own chunk and the one before
  EXPECT_TRUE(e.shared());
  EXPECT_EQ(e.mean_budget_keys(), 64u);
  EXPECT_GT(e.budget_keys(), 0u);
  ExpectWhole(e);
  uint64_t keys = 0;
  double keys_share = 0;
  for (const auto& head : e.heads()) {
    keys += head.keys();
    keys_share += head.keys_share();
  }
  EXPECT_LE(keys, uint64_t{e.budget_keys()} * e.heads_size());
  EXPECT_NEAR(keys_share, 1, 1e-9);
  for (const auto& head : e.heads()) {
    EXPECT_GT(head.selected(), 0);
    EXPECT_GT(head.missed(), 0);
    ASSERT_EQ(head.chunks_size(), 3);
    EXPECT_GE(head.chunks(0).mass() + head.chunks(0).estimated(), 0);
    EXPECT_LT(head.chunks(0).best_position(), e.window_start());
  }
  // The same again: nothing was left behind, and nothing of the session has changed.
  ExplainResponse again;
  ASSERT_TRUE(Call(request, &again).ok());
  EXPECT_EQ(again.SerializeAsString(), e.SerializeAsString());
  EXPECT_EQ(stack_.WaitForNoHolds(), absl::OkStatus());
}

TEST_F(ExplainStackTest, DenseMissesNothing) {
  auto request = Request(0, 1400);
  request.mutable_attention()->set_mode(gpu_worker::v1::Attention::MODE_DENSE);
  ExplainResponse e;
  const grpc::Status status = Call(request, &e);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_FALSE(e.by_router());
  ExpectWhole(e);
  for (const auto& head : e.heads()) EXPECT_NEAR(head.missed(), 0, 1e-9);
}

TEST_F(ExplainStackTest, TheFirstTokenAndTheLastOne) {
  ExplainResponse first, last;
  ASSERT_TRUE(Call(Request(0, 0), &first).ok());
  for (const auto& head : first.heads()) EXPECT_NEAR(head.always(), 1, 1e-9);
  auto request = Request(0, 0);
  request.clear_position();
  ASSERT_TRUE(Call(request, &last).ok());
  EXPECT_GE(last.position(), kPrompt);
  ExpectWhole(last);
}

TEST_F(ExplainStackTest, BadRequests) {
  ExplainResponse e;
  EXPECT_EQ(Call(Request(1000, 5), &e).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Call(Request(0, 100000), &e).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  auto request = Request(0, 5);
  request.set_session("no such session");
  EXPECT_EQ(Call(request, &e).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_session("nobody");
  EXPECT_EQ(Call(request, &e).error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace hga
