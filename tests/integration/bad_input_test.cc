// What clients must not be able to do: each request gets its error, and the daemons go on serving.
#include <fstream>
#include <limits>

#include "common/rpc/status.h"
#include "gtest/gtest.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

class BadInputTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    stack_ = new Stack({});
    ASSERT_EQ(stack_->Start(), absl::OkStatus());
  }
  static void TearDownTestSuite() {
    delete stack_;
    stack_ = nullptr;
  }
  // Whatever a test did, a plain request is answered afterwards.
  void TearDown() override {
    const Answer answer = stack_->Generate(TokenRequest(70, 9, 2));
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.tokens.size(), 2u);
  }

  absl::StatusCode CodeOf(const gpu_worker::v1::GenerateRequest& request) {
    const Answer answer = stack_->Generate(request);
    if (!answer.status.ok()) {
      EXPECT_FALSE(answer.status.message().empty());
    }
    return answer.status.code();
  }

  static Stack* stack_;
};
Stack* BadInputTest::stack_ = nullptr;

TEST_F(BadInputTest, EmptyPrompt) {
  EXPECT_EQ(CodeOf(GreedyRequest(4)), absl::StatusCode::kInvalidArgument);
  auto request = GreedyRequest(4);
  request.set_text("");
  EXPECT_EQ(CodeOf(request), absl::StatusCode::kInvalidArgument);
}

TEST_F(BadInputTest, InvalidUtf8) {
  auto request = GreedyRequest(4);
  request.set_text("good \xff\xfe");
  EXPECT_EQ(CodeOf(request), absl::StatusCode::kInvalidArgument);
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("cut \xe2\x82");
  EXPECT_EQ(CodeOf(request), absl::StatusCode::kInvalidArgument);
}

TEST_F(BadInputTest, PromptLongerThanTheContext) {
  const Answer answer = stack_->Generate(TokenRequest(5000, 1, 4));
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(answer.status.message()).find("5000"), std::string::npos) << answer.status;
}

TEST_F(BadInputTest, TokenOutsideTheVocabulary) {
  auto request = GreedyRequest(4);
  request.mutable_tokens()->add_ids(4000000000u);
  EXPECT_EQ(CodeOf(request), absl::StatusCode::kInvalidArgument);
}

TEST_F(BadInputTest, SessionNames) {
  for (const std::string name : {"../etc/passwd", "a/b", ".hidden", "two words"}) {
    EXPECT_EQ(CodeOf(InSession(TokenRequest(10, 1, 1), name)), absl::StatusCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(CodeOf(InSession(TokenRequest(10, 1, 1), std::string(4000, 'a'))), absl::StatusCode::kInvalidArgument);
}

TEST_F(BadInputTest, UnknownSession) {
  auto request = InSession(TokenRequest(10, 1, 1), "never-seen");
  request.set_append(true);
  EXPECT_EQ(CodeOf(request), absl::StatusCode::kNotFound);
  grpc::ClientContext context;
  gpu_worker::v1::DeleteSessionRequest erase;
  erase.set_name("never-seen");
  gpu_worker::v1::DeleteSessionResponse response;
  EXPECT_EQ(stack_->worker_stub()->DeleteSession(&context, erase, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(BadInputTest, AbsurdSampling) {
  auto request = TokenRequest(10, 1, 1);
  request.mutable_sampling()->set_temperature(-1);
  EXPECT_EQ(CodeOf(request), absl::StatusCode::kInvalidArgument);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_top_p(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(CodeOf(request), absl::StatusCode::kInvalidArgument);
  request.mutable_sampling()->set_top_p(0.9f);
  for (int i = 0; i < 1000; ++i) request.add_stop("x");
  EXPECT_EQ(CodeOf(request), absl::StatusCode::kInvalidArgument);
}

TEST_F(BadInputTest, MaxTokensZeroPrefillsOnly) {
  auto request = InSession(TokenRequest(200, 11, 0), "prefilled");
  const Answer answer = stack_->Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_TRUE(answer.tokens.empty());
  EXPECT_EQ(answer.finished.reason(), gpu_worker::v1::Finished::REASON_PREFILL_ONLY);
  request.set_max_tokens(1);
  EXPECT_EQ(stack_->Generate(request).started.reused_tokens(), 192u);
}

TEST_F(BadInputTest, TwoWritersOnOneSession) {
  // Long enough that the first writer is still at it when the second one comes.
  absl::Status inner;
  const Answer outer = stack_->Generate(InSession(TokenRequest(300, 12, 1500), "shared"), [&](size_t tokens) {
    if (tokens == 1) inner = stack_->Generate(InSession(TokenRequest(300, 13, 1), "shared")).status;
    return true;
  });
  EXPECT_TRUE(outer.status.ok()) << outer.status;
  EXPECT_EQ(inner.code(), absl::StatusCode::kFailedPrecondition) << inner;
}

TEST_F(BadInputTest, KvStoreRefusesAbsurdRequests) {
  const auto stub = stack_->kv_store_stub();
  kv_store::v1::ReserveRequest reserve;
  reserve.set_client_id(123456789);
  reserve.set_slots(4000000000u);
  kv_store::v1::ReserveResponse reserved;
  grpc::ClientContext c1;
  EXPECT_FALSE(stub->Reserve(&c1, reserve, &reserved).ok());

  kv_store::v1::CommitRequest commit;
  commit.set_client_id(123456789);
  commit.set_chunk_hash("short");
  kv_store::v1::CommitResponse committed;
  grpc::ClientContext c2;
  EXPECT_FALSE(stub->Commit(&c2, commit, &committed).ok());

  kv_store::v1::OpenSessionRequest open;
  open.set_name("../x");
  open.set_model_fingerprint("bad");
  kv_store::v1::OpenSessionResponse opened;
  grpc::ClientContext c3;
  EXPECT_EQ(stub->OpenSession(&c3, open, &opened).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(BadInputTest, RouterRefusesAbsurdRequests) {
  const auto stub = stack_->router_stub();
  router::v1::AttachRequest attach;
  attach.mutable_geometry()->set_layers(4000000000u);
  attach.set_want_ring(true);
  attach.set_ring_slot_bytes(uint64_t{1} << 60);
  grpc::ClientContext context;
  const auto reader = stub->Attach(&context, attach);
  router::v1::AttachEvent event;
  EXPECT_FALSE(reader->Read(&event));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

class BadModelTest : public testing::Test {
 protected:
  // The worker must refuse to start with status 1 and name the file.
  void ExpectRefused(const std::string& contents) {
    StackOptions options;
    Stack stack(options);
    options.model = stack.folder() + "/bad.gguf";
    std::ofstream(options.model, std::ios::binary) << contents;
    auto worker = Process::Start({Binary("gpu_worker/gpu_worker"), "--listen=" + stack.address("gpu_worker"),
                                  "--metrics_listen", "", "--model=" + options.model,
                                  "--kv_store=" + stack.address("kv_store")},
                                 stack.folder() + "/gpu_worker.log");
    ASSERT_TRUE(worker.ok()) << worker.status();
    const auto code = worker->Wait();
    ASSERT_TRUE(code.ok()) << code.status();
    EXPECT_EQ(*code, 1) << stack.log("gpu_worker");
    EXPECT_NE(stack.log("gpu_worker").find("bad.gguf"), std::string::npos) << stack.log("gpu_worker");
  }
};

TEST_F(BadModelTest, NotAModel) { ExpectRefused("hello"); }
TEST_F(BadModelTest, HugeCounts) {
  ExpectRefused(std::string("GGUF\x03\0\0\0", 8) + std::string(16, '\x7f'));
}
TEST_F(BadModelTest, WrongEndian) {
  ExpectRefused(std::string("GGUF\0\0\0\x03", 8) + std::string(16, '\0'));
}

}  // namespace
}  // namespace hga
