// `hga bench` against a fake worker.
#include <fstream>
#include <set>
#include <sstream>

#include "client/exit_code.h"
#include "client/run.h"
#include "client/testing/fake_worker.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

using gpu_worker::v1::Attention;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint32_t kPrompt = 200;

class BenchCommandTest : public testing::Test {
 protected:
  BenchCommandTest() {
    finished_ = worker_.AddFinished();
    finished_->set_prompt_tokens(kPrompt);
    finished_->set_completion_tokens(65);
    finished_->set_decode_steps(64);
    finished_->set_prefill_s(2);
    finished_->set_ttft_s(2);
    finished_->set_decode_s(1);
    finished_->set_attended_fraction(0.1);
  }

  int Run(std::vector<std::string> args) {
    args.insert(args.begin(), {"hga", "--worker", worker_.address(), "bench", "--no-limits", "--depths", "200"});
    std::vector<const char*> argv;
    for (const std::string& arg : args) argv.push_back(arg.c_str());
    std::istringstream in;
    Console console{in, out_, err_};
    return RunClient(argv.size(), argv.data(), &console, &interrupt_);
  }

  FakeWorker worker_;
  gpu_worker::v1::Finished* finished_;
  Interrupt interrupt_;
  std::ostringstream out_, err_;
};

TEST_F(BenchCommandTest, AsksEachModeWithTextsOfItsOwn) {
  EXPECT_EQ(Run({"--repetitions", "2", "--budget-tokens", "512"}), kExitOk) << err_.str();
  const auto requests = worker_.requests();
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_EQ(requests[0].attention().mode(), Attention::MODE_ROUTED);
  EXPECT_EQ(requests[0].attention().budget_max_tokens(), 512u);
  EXPECT_EQ(requests[2].attention().mode(), Attention::MODE_DENSE);
  std::set<std::string> texts;
  for (const auto& request : requests) {
    EXPECT_EQ(request.tokens().ids_size(), 200);
    EXPECT_EQ(request.max_tokens(), 65u);
    EXPECT_TRUE(request.ignore_eos());
    EXPECT_EQ(request.sampling().temperature(), 0);
    EXPECT_THAT(request.session(), IsEmpty());
    texts.insert(request.tokens().SerializeAsString());
  }
  EXPECT_EQ(texts.size(), 4u);
  EXPECT_THAT(out_.str(), HasSubstr("    200 routed |     100.0 "));
  EXPECT_THAT(out_.str(), HasSubstr("    200 dense  |     100.0 "));
}

TEST_F(BenchCommandTest, JsonOnTheLastLineOrInAFile) {
  EXPECT_EQ(Run({"--modes", "routed", "--quiet", "--json"}), kExitOk) << err_.str();
  EXPECT_EQ(err_.str(), "");
  EXPECT_EQ(nlohmann::json::parse(out_.str())["decode_tps_routed_200"], 64);
  for (const std::string flag : {"--json=", "--json "}) {
    const std::string path = testing::TempDir() + "/bench.json";
    std::remove(path.c_str());
    std::vector<std::string> args = {"--modes", "dense", flag + path};
    if (flag.back() == ' ') args = {"--modes", "dense", "--json", path};
    EXPECT_EQ(Run(args), kExitOk) << err_.str();
    std::ifstream file(path);
    EXPECT_EQ(nlohmann::json::parse(file)["decode_tps_dense_200"], 64) << flag;
  }
}

TEST_F(BenchCommandTest, WhatTheStoreHadAlreadyIsNoMeasurement) {
  finished_->set_reused_tokens(64);
  EXPECT_EQ(Run({}), kExitFailure);
  EXPECT_THAT(err_.str(), HasSubstr("64 of 200 tokens were in the store already"));
}

TEST_F(BenchCommandTest, NorIsRoutedAttentionWithoutARouter) {
  finished_->set_dense_fallback_steps(3);
  EXPECT_EQ(Run({"--modes", "dense"}), kExitOk);
  EXPECT_EQ(Run({}), kExitFailure);
  EXPECT_THAT(err_.str(), HasSubstr("the router is away"));
}

TEST_F(BenchCommandTest, NorIsAnAnswerThatWasCutShort) {
  finished_->set_completion_tokens(3);
  EXPECT_EQ(Run({}), kExitFailure);
  EXPECT_THAT(err_.str(), HasSubstr("3 tokens, not 65"));
}

TEST_F(BenchCommandTest, ADepthBeyondTheContextIsRefusedBeforeAnythingRuns) {
  EXPECT_EQ(Run({"--depths", "8192"}), kExitInvalidRequest);  // the last --depths counts, or both
  EXPECT_THAT(err_.str(), HasSubstr("context holds 8192"));
  EXPECT_THAT(worker_.requests(), IsEmpty());
}

TEST_F(BenchCommandTest, ResumeAsksTheSameAgainAndForgetsTheSession) {
  finished_->set_completion_tokens(1);
  finished_->set_decode_steps(0);
  worker_.reused_when_known = 192;
  EXPECT_EQ(Run({"--resume", "--prefill-only", "--json"}), kExitOk) << err_.str();
  const auto requests = worker_.requests();
  ASSERT_EQ(requests.size(), 3u);  // routed, again, dense
  EXPECT_THAT(requests[0].session(), HasSubstr("hga-bench-200-"));
  EXPECT_EQ(requests[1].session(), requests[0].session());
  EXPECT_EQ(requests[1].tokens().SerializeAsString(), requests[0].tokens().SerializeAsString());
  EXPECT_THAT(requests[2].session(), IsEmpty());
  EXPECT_THAT(worker_.sessions, IsEmpty());
  EXPECT_THAT(out_.str(), HasSubstr("192 tokens from the store"));
  EXPECT_THAT(out_.str(), HasSubstr("\"resume_reused_tokens_200\":192"));
}

TEST_F(BenchCommandTest, AStoreThatForgotIsNoResume) {
  finished_->set_completion_tokens(1);
  EXPECT_EQ(Run({"--resume", "--prefill-only"}), kExitFailure);
  EXPECT_THAT(err_.str(), HasSubstr("only 0 of 200"));
  EXPECT_THAT(worker_.sessions, IsEmpty());
}

TEST_F(BenchCommandTest, CtrlCEndsTheCallAndForgetsTheSession) {
  worker_.events.clear();
  worker_.AddToken("again ");
  worker_.endless = true;
  worker_.on_generate = [this] { EXPECT_TRUE(interrupt_.Trigger()); };
  EXPECT_EQ(Run({"--resume"}), kExitInterrupted);
  EXPECT_TRUE(worker_.WaitForCancellation());
  EXPECT_THAT(worker_.sessions, IsEmpty());
  EXPECT_EQ(worker_.requests().size(), 1u);
}

}  // namespace
}  // namespace hga
