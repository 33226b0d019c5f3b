// The whole command against a fake worker.
#include "client/run.h"

#include <cstdio>
#include <fstream>
#include <functional>
#include <sstream>

#include "client/exit_code.h"
#include "client/testing/fake_worker.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class RunTest : public testing::Test {
 protected:
  int Run(std::vector<std::string> args, const std::string& input = "") {
    args.insert(args.begin(), {"hga", "--worker", address_});
    std::vector<const char*> argv;
    for (const std::string& arg : args) argv.push_back(arg.c_str());
    std::istringstream in(input);
    Console console{in, out_stream_, err_};
    return RunClient(argv.size(), argv.data(), &console, &interrupt_);
  }
  std::string out() const { return out_buffer_.str(); }
  std::string err() const { return err_.str(); }

  std::string WriteFile(const std::string& content) {
    const std::string path = testing::TempDir() + "/document.txt";
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  // Calls `on_flush` whenever text has been shown.
  class Buffer : public std::stringbuf {
   public:
    std::function<void()> on_flush;
    int sync() override {
      if (on_flush) on_flush();
      return std::stringbuf::sync();
    }
  };

  FakeWorker worker_;
  std::string address_ = worker_.address();
  Interrupt interrupt_;
  Buffer out_buffer_;
  std::ostream out_stream_{&out_buffer_};
  std::ostringstream err_;
};

TEST_F(RunTest, AskSendsDocumentBeforeQuestionAndStreamsTheAnswer) {
  worker_.AddToken("DRINK");
  worker_.AddToken(" ME");
  worker_.AddFinished()->set_prompt_tokens(7000);
  std::vector<std::string> shown;
  out_buffer_.on_flush = [&] { shown.push_back(out()); };
  EXPECT_EQ(Run({"ask", "--file", WriteFile("A bottle.\n"), "What does it say?"}), kExitOk);
  EXPECT_EQ(out(), "DRINK ME\n");
  EXPECT_EQ(shown.front(), "DRINK");  // not held back until the end
  EXPECT_THAT(err(), HasSubstr("7000 tokens"));
  ASSERT_EQ(worker_.requests().size(), 1);
  const auto request = worker_.requests()[0];
  ASSERT_EQ(request.chat().messages_size(), 1);
  EXPECT_EQ(request.chat().messages(0).role(), "user");
  EXPECT_EQ(request.chat().messages(0).content(), "A bottle.\n\nWhat does it say?");
  EXPECT_THAT(request.session(), StartsWith("doc-"));
  EXPECT_FALSE(request.append());
}

TEST_F(RunTest, PrefillSharesSessionAndBeginningWithAsk) {
  worker_.AddFinished();
  const std::string path = WriteFile("A bottle.\n");
  EXPECT_EQ(Run({"prefill", "--file", path}), kExitOk);
  EXPECT_EQ(Run({"ask", "--file", path, "Why?"}), kExitOk);
  const auto requests = worker_.requests();
  ASSERT_EQ(requests.size(), 2);
  EXPECT_TRUE(requests[0].has_max_tokens());
  EXPECT_EQ(requests[0].max_tokens(), 0);
  EXPECT_EQ(requests[0].session(), requests[1].session());
  EXPECT_THAT(requests[1].chat().messages(0).content(), StartsWith(requests[0].chat().messages(0).content()));
}

TEST_F(RunTest, JsonIsTheLastLine) {
  worker_.AddToken("four");
  worker_.AddFinished()->set_completion_tokens(1);
  EXPECT_EQ(Run({"generate", "2+2?", "--json", "--quiet"}), kExitOk);
  EXPECT_EQ(err(), "");
  std::istringstream lines(out());
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, "four");
  std::getline(lines, line);
  EXPECT_EQ(nlohmann::json::parse(line)["completion_tokens"], 1);
}

TEST_F(RunTest, JsonFileLeavesOutputAlone) {
  worker_.AddFinished()->set_reused_tokens(5);
  const std::string path = testing::TempDir() + "/statistics.json";
  EXPECT_EQ(Run({"generate", "x", "--json=" + path}), kExitOk);
  EXPECT_EQ(out(), "");
  std::ifstream file(path);
  EXPECT_EQ(nlohmann::json::parse(file)["reused_tokens"], 5);
  EXPECT_EQ(Run({"generate", "x", "--json=/nonexistent/x.json"}), kExitFailure);
}

TEST_F(RunTest, RawPromptIsSentAsText) {
  worker_.AddFinished();
  EXPECT_EQ(Run({"generate", "--raw", "stats"}), kExitOk);
  EXPECT_EQ(worker_.requests()[0].text(), "stats");
}

TEST_F(RunTest, ErrorsBecomeExitCodesWithAdvice) {
  const struct {
    grpc::StatusCode code;
    int exit;
    const char* advice;
  } cases[] = {
      {grpc::StatusCode::INVALID_ARGUMENT, kExitInvalidRequest, "hga model"},
      {grpc::StatusCode::NOT_FOUND, kExitNotFound, "hga sessions list"},
      {grpc::StatusCode::FAILED_PRECONDITION, kExitBusy, "--session"},
      {grpc::StatusCode::RESOURCE_EXHAUSTED, kExitBusy, "Try again"},
      {grpc::StatusCode::UNAVAILABLE, kExitNoWorker, "quickstart.sh --keep"},
      {grpc::StatusCode::CANCELLED, kExitNoWorker, "being stopped"},
      {grpc::StatusCode::INTERNAL, kExitFailure, "the context of the session"},
  };
  for (const auto& c : cases) {
    worker_.status = grpc::Status(c.code, "the context of the session");
    err_.str("");
    EXPECT_EQ(Run({"generate", "x"}), c.exit) << c.code;
    EXPECT_THAT(err(), HasSubstr(c.advice));
  }
}

TEST_F(RunTest, ErrorsNameTheRequest) {
  worker_.request_id = "4711abc";
  worker_.status = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the arena is full");
  EXPECT_EQ(Run({"generate", "hi"}), kExitBusy);
  EXPECT_THAT(err(), HasSubstr("the arena is full (request 4711abc)"));
}

TEST_F(RunTest, AnswerWithoutStatisticsIsAFailure) {
  worker_.AddToken("cut");
  EXPECT_EQ(Run({"generate", "x"}), kExitFailure);
}

TEST_F(RunTest, InterruptCancelsTheCall) {
  worker_.AddToken("again ");
  worker_.endless = true;
  out_buffer_.on_flush = [this] { interrupt_.Trigger(); };
  EXPECT_EQ(Run({"generate", "x"}), kExitInterrupted);
  EXPECT_THAT(err(), Not(HasSubstr("error")));
  EXPECT_TRUE(worker_.WaitForCancellation());
}

TEST_F(RunTest, TimeoutEndsTheCall) {
  worker_.AddToken("again ");
  worker_.endless = true;
  EXPECT_EQ(Run({"generate", "x", "--timeout", "0.05"}), kExitFailure);
  EXPECT_THAT(err(), HasSubstr("--timeout"));
}

TEST_F(RunTest, NoWorker) {
  address_ = "unix:/tmp/hga.nobody/worker.sock";
  EXPECT_EQ(Run({"model"}), kExitNoWorker);
  EXPECT_THAT(err(), HasSubstr(address_));
  EXPECT_THAT(err(), HasSubstr("deploy/quickstart.sh --keep"));
}

TEST_F(RunTest, BadDocumentsNeverReachTheWorker) {
  EXPECT_EQ(Run({"ask", "--file", "/nonexistent.txt", "Why?"}), kExitNotFound);
  EXPECT_EQ(Run({"ask", "--file", WriteFile(""), "Why?"}), kExitInvalidRequest);
  EXPECT_EQ(Run({"ask", "--file", WriteFile("\xff\xfe"), "Why?"}), kExitInvalidRequest);
  EXPECT_EQ(Run({"ask", "--file", WriteFile("text"), " "}), kExitInvalidRequest);
  EXPECT_EQ(Run({"ask", "--file", testing::TempDir(), "Why?"}), kExitInvalidRequest);
  EXPECT_TRUE(worker_.requests().empty());
}

TEST_F(RunTest, ChatBeginsASessionAndAppendsToIt) {
  worker_.AddToken("hello");
  worker_.AddFinished();
  EXPECT_EQ(Run({"chat", "--session", "s"}, "hi\n\nmore\n/quit\nnever\n"), kExitOk);
  const auto requests = worker_.requests();
  ASSERT_EQ(requests.size(), 3);  // "hi" is tried as a continuation first
  EXPECT_TRUE(requests[0].append());
  EXPECT_FALSE(requests[1].append());
  EXPECT_TRUE(requests[2].append());
  ASSERT_EQ(requests[2].chat().messages_size(), 1);
  EXPECT_EQ(requests[2].chat().messages(0).content(), "more");
  EXPECT_EQ(out(), "hello\nhello\n");
}

TEST_F(RunTest, ChatGoesOnWithAKnownSession) {
  worker_.sessions = {"s"};
  worker_.AddFinished();
  EXPECT_EQ(Run({"chat", "--session", "s"}, "hi"), kExitOk);
  ASSERT_EQ(worker_.requests().size(), 1);
  EXPECT_TRUE(worker_.requests()[0].append());
}

TEST_F(RunTest, AppendToAnUnknownSessionDoesNotStartAnew) {
  worker_.AddFinished();
  EXPECT_EQ(Run({"generate", "x", "--session", "gone", "--append"}), kExitNotFound);
  EXPECT_EQ(worker_.requests().size(), 1);
}

TEST_F(RunTest, Sessions) {
  worker_.sessions = {"a", "b"};
  EXPECT_EQ(Run({"sessions", "delete", "a"}), kExitOk);
  EXPECT_EQ(Run({"sessions", "list", "--json"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr("\"name\":\"b\""));
  EXPECT_THAT(out(), Not(HasSubstr("\"name\":\"a\"")));
  EXPECT_EQ(Run({"sessions", "delete", "a"}), kExitNotFound);
  EXPECT_EQ(Run({"sessions", "fork", "a", "c"}), kExitNotFound);
  EXPECT_EQ(Run({"sessions", "fork", "b", "c"}), kExitOk);
  EXPECT_EQ(worker_.sessions.count("c"), 1u);
  EXPECT_NE(Run({"sessions", "fork", "b", "c"}), kExitOk);
  EXPECT_EQ(Run({"sessions", "pin", "a"}), kExitNotFound);
  EXPECT_EQ(Run({"sessions", "pin", "b"}), kExitOk);
  EXPECT_EQ(worker_.pinned.count("b"), 1u);
  EXPECT_EQ(Run({"sessions", "list"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr(", pinned"));
  EXPECT_EQ(Run({"sessions", "unpin", "b"}), kExitOk);
  EXPECT_EQ(worker_.pinned.count("b"), 0u);
}

TEST_F(RunTest, StatsAndModel) {
  EXPECT_EQ(Run({"stats", "--json"}), kExitOk);
  const auto stats = nlohmann::json::parse(out());
  EXPECT_EQ(stats["requests_total"], 7);
  EXPECT_EQ(stats["router_attached"], true);
  EXPECT_EQ(Run({"model"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr("8192 tokens"));
}

TEST_F(RunTest, HealthOfTheWorkerAndOfAnyDaemon) {
  EXPECT_EQ(Run({"health"}), kExitOk) << err();
  EXPECT_EQ(out(), address_ + " serves\n");
  EXPECT_EQ(Run({"health", "unix:/nowhere/x.sock"}), kExitNoWorker);
  EXPECT_THAT(err(), HasSubstr("unix:/nowhere/x.sock"));
  EXPECT_EQ(Run({"health", "nonsense"}), kExitUsage);
}

}  // namespace
}  // namespace hga
