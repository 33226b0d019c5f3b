#include "client/options.h"

#include <fstream>
#include <sstream>

#include "client/exit_code.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class OptionsTest : public testing::Test {
 protected:
  std::optional<int> Parse(std::vector<const char*> args) {
    options_ = Options();
    args.insert(args.begin(), "hga");
    out_.str("");
    err_.str("");
    return ParseOptions(args.size(), args.data(), &options_, out_, err_);
  }
  Options options_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(OptionsTest, Commands) {
  ASSERT_EQ(Parse({"ask", "--file", "f", "why?"}), std::nullopt) << err_.str();
  EXPECT_EQ(options_.command, Command::kAsk);
  EXPECT_EQ(options_.file, "f");
  EXPECT_EQ(options_.text, "why?");
  EXPECT_EQ(Parse({"chat"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kChat);
  EXPECT_EQ(Parse({"generate", "p"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kGenerate);
  EXPECT_EQ(Parse({"prefill", "-f", "f"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kPrefill);
  EXPECT_EQ(Parse({"sessions", "list"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kSessionsList);
  EXPECT_EQ(Parse({"sessions", "delete", "s"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kSessionsDelete);
  EXPECT_EQ(options_.session, "s");
  EXPECT_EQ(Parse({"sessions", "fork", "s", "t"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kSessionsFork);
  EXPECT_EQ(options_.session, "s");
  EXPECT_EQ(options_.fork, "t");
  EXPECT_EQ(Parse({"stats"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kStats);
  EXPECT_EQ(Parse({"model"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kModel);
}

TEST_F(OptionsTest, StoreHandsItsArgumentsOn) {
  EXPECT_EQ(Parse({"store", "export", "--data_dir", "/d", "book", "f", "--json"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kStore);
  EXPECT_EQ(options_.store_arguments, std::vector<std::string>({"export", "--data_dir", "/d", "book", "f", "--json"}));
  EXPECT_EQ(Parse({"store", "--help"}), std::nullopt);
}

TEST_F(OptionsTest, ModelInspect) {
  ASSERT_EQ(Parse({"model", "inspect", "m.gguf", "--context", "65536", "--device-memory", "32GiB"}), std::nullopt);
  EXPECT_EQ(options_.command, Command::kModelInspect);
  EXPECT_EQ(options_.model_path, "m.gguf");
  EXPECT_EQ(options_.context_tokens, 65536u);
  EXPECT_EQ(options_.device_memory, "32GiB");
  EXPECT_EQ(Parse({"model", "inspect", "m.gguf", "--json"}), std::nullopt);
  EXPECT_EQ(options_.json, "-");
  EXPECT_EQ(Parse({"model", "inspect"}), kExitUsage);
  EXPECT_EQ(Parse({"model", "inspect", "m.gguf", "--context", "0"}), kExitUsage);
}

TEST_F(OptionsTest, Bench) {
  ASSERT_EQ(Parse({"bench"}), std::nullopt) << err_.str();
  EXPECT_EQ(options_.command, Command::kBench);
  EXPECT_THAT(options_.bench.depths, ElementsAre(512, 4096, 16384));
  EXPECT_THAT(options_.bench.modes, ElementsAre("routed", "dense"));
  ASSERT_EQ(Parse({"bench", "--depths", "100,200", "--modes", "dense", "--decode_tokens", "8", "--repetitions", "3",
                   "--resume", "--no_limits", "--budget", "0.03", "--seed", "7", "--json", "f"}),
            std::nullopt)
      << err_.str();
  EXPECT_THAT(options_.bench.depths, ElementsAre(100, 200));
  EXPECT_THAT(options_.bench.modes, ElementsAre("dense"));
  EXPECT_EQ(options_.bench.decode_tokens, 8u);
  EXPECT_EQ(options_.bench.repetitions, 3u);
  EXPECT_TRUE(options_.bench.resume);
  EXPECT_TRUE(options_.bench.no_limits);
  EXPECT_EQ(options_.budget, 0.03f);
  EXPECT_EQ(options_.seed, 7u);
  EXPECT_EQ(options_.json, "f");
  ASSERT_EQ(Parse({"bench", "--json"}), std::nullopt);
  EXPECT_EQ(options_.json, "-");
  ASSERT_EQ(Parse({"bench", "--json", "--resume"}), std::nullopt);
  EXPECT_EQ(options_.json, "-");
  ASSERT_EQ(Parse({"bench", "--prefill-only", "--json=g"}), std::nullopt);
  EXPECT_EQ(options_.json, "g");
  for (const char* wrong : {"--depths=64", "--depths=x", "--depths=512,512", "--modes=sparse", "--decode_tokens=0",
                            "--repetitions=0", "--attention=dense"}) {
    EXPECT_EQ(Parse({"bench", wrong}), kExitUsage) << wrong;
  }
}

TEST_F(OptionsTest, CommonFlagsStandBeforeOrAfterTheCommand) {
  EXPECT_EQ(Parse({"--worker", "localhost:1", "model"}), std::nullopt);
  EXPECT_EQ(options_.worker, "localhost:1");
  EXPECT_EQ(Parse({"sessions", "list", "--worker", "localhost:2", "-q"}), std::nullopt);
  EXPECT_EQ(options_.worker, "localhost:2");
  EXPECT_TRUE(options_.quiet);
}

TEST_F(OptionsTest, FlagsDoNotSwallowThePrompt) {
  EXPECT_EQ(Parse({"generate", "--json", "p"}), std::nullopt) << err_.str();
  EXPECT_EQ(options_.json, "-");
  EXPECT_EQ(options_.text, "p");
  EXPECT_EQ(Parse({"generate", "--json=f", "p"}), std::nullopt) << err_.str();
  EXPECT_EQ(options_.json, "f");
  EXPECT_EQ(Parse({"generate", "--stop", "a", "--stop", "b", "p"}), std::nullopt) << err_.str();
  EXPECT_THAT(options_.stop, ElementsAre("a", "b"));
  EXPECT_EQ(options_.text, "p");
}

TEST_F(OptionsTest, PromptMayBeTheNameOfACommand) {
  EXPECT_EQ(Parse({"generate", "chat"}), std::nullopt) << err_.str();
  EXPECT_EQ(options_.command, Command::kGenerate);
  EXPECT_EQ(options_.text, "chat");
}

TEST_F(OptionsTest, UsageErrors) {
  const std::vector<std::vector<const char*>> cases = {
      {},
      {"dance"},
      {"ask", "why?"},
      {"ask", "--file", "f"},
      {"sessions"},
      {"sessions", "delete"},
      {"sessions", "fork", "s"},
      {"sessions", "pin"},
      {"sessions", "unpin", ".t"},
      {"sessions", "fork", "s", ".t"},
      {"generate", "p", "--temperature", "-1"},
      {"generate", "p", "--temperature", "warm"},
      {"generate", "p", "--top-p", "1.5"},
      {"generate", "p", "--max-tokens", "-3"},
      {"generate", "p", "--budget", "2"},
      {"generate", "p", "--attention", "some"},
      {"generate", "p", "--attention", "dense", "--budget", "0.5"},
      {"generate", "p", "--attention", "dense", "--budget-tokens", "512"},
      {"generate", "p", "--budget", "0.5", "--budget-tokens", "512"},
      {"generate", "p", "--budget-tokens", "3"},
      {"generate", "p", "--budget-sharing", "some"},
      {"generate", "p", "--budget-layer-cap", "0.5"},
      {"generate", "p", "--budget-top-p", "1.5"},
      {"generate", "p", "--append"},
      {"generate", "p", "--raw", "--chat"},
      {"generate", "p", "--session", "a b"},
      {"generate", "p", "--stop", ""},
      {"model", "--worker", "nowhere"},
      {"model", "--timeout", "-1"},
      {"model", "--unknown"},
  };
  for (const auto& args : cases) {
    EXPECT_EQ(Parse(args), kExitUsage) << testing::PrintToString(args);
    EXPECT_NE(err_.str(), "") << testing::PrintToString(args);
  }
}

TEST_F(OptionsTest, AtMostSixteenStops) {
  std::vector<const char*> args = {"generate", "p"};
  for (int i = 0; i < 16; ++i) args.insert(args.end(), {"--stop", "x"});
  EXPECT_EQ(Parse(args), std::nullopt);
  args.insert(args.end(), {"--stop", "x"});
  EXPECT_EQ(Parse(args), kExitUsage);
}

TEST_F(OptionsTest, HelpShowsExamples) {
  EXPECT_EQ(Parse({"--help"}), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("hga ask --file"));
  EXPECT_THAT(out_.str(), HasSubstr("hga chat"));
}

TEST_F(OptionsTest, ConfigFileGivesDefaults) {
  const std::string path = testing::TempDir() + "/hga.toml";
  std::ofstream(path) << "worker = \"localhost:7\"\ntemperature = 0.5\ntop-k = 40\n";
  EXPECT_EQ(Parse({"--config", path.c_str(), "--top-k", "3", "generate", "p"}), std::nullopt) << err_.str();
  EXPECT_EQ(options_.worker, "localhost:7");
  EXPECT_FLOAT_EQ(options_.temperature, 0.5);
  EXPECT_EQ(options_.top_k, 3);  // the command line wins
  EXPECT_EQ(Parse({"--config", "/nonexistent.toml", "model"}), kExitUsage);
}

TEST_F(OptionsTest, RequestCarriesEveryFlag) {
  ASSERT_EQ(Parse({"generate",  "p",
                   "--session", "s",
                   "--append",  "--no-thinking",
                   "--max-tokens",
                   "0",         "--temperature",
                   "0.7",       "--top-k",
                   "5",         "--top-p",
                   "0.9",       "--min-p",
                   "0.1",       "--repetition-penalty",
                   "1.1",       "--seed",
                   "9",         "--stop",
                   "END",       "--attention",
                   "routed",    "--budget",
                   "0.25"}),
            std::nullopt)
      << err_.str();
  const auto request = RequestFrom(options_);
  EXPECT_EQ(request.session(), "s");
  EXPECT_TRUE(request.append());
  EXPECT_TRUE(request.no_thinking());
  EXPECT_TRUE(request.has_max_tokens());
  EXPECT_EQ(request.max_tokens(), 0);
  EXPECT_FLOAT_EQ(request.sampling().temperature(), 0.7);
  EXPECT_EQ(request.sampling().top_k(), 5);
  EXPECT_FLOAT_EQ(request.sampling().top_p(), 0.9);
  EXPECT_FLOAT_EQ(request.sampling().min_p(), 0.1);
  EXPECT_FLOAT_EQ(request.sampling().repetition_penalty(), 1.1);
  EXPECT_EQ(request.sampling().seed(), 9);
  EXPECT_THAT(request.stop(), ElementsAre("END"));
  EXPECT_EQ(request.attention().mode(), gpu_worker::v1::Attention::MODE_ROUTED);
  EXPECT_FLOAT_EQ(request.attention().budget_fraction(), 0.25);
  EXPECT_EQ(request.attention().budget_max_tokens(), 0u);
}

TEST_F(OptionsTest, BudgetInTokensIsFloorAndCap) {
  ASSERT_EQ(Parse({"generate", "p", "--budget-tokens", "512"}), std::nullopt) << err_.str();
  const auto request = RequestFrom(options_);
  EXPECT_EQ(request.attention().budget_min_tokens(), 512u);
  EXPECT_EQ(request.attention().budget_max_tokens(), 512u);
}

TEST_F(OptionsTest, SharingOfTheBudget) {
  ASSERT_EQ(Parse({"generate", "p", "--budget-sharing", "fixed", "--budget-layer-cap", "3", "--budget-least-share", "0",
                   "--budget-top-p", "0.9", "--residual", "off", "--dense-decode-tokens", "0",
                   "--budget-linear-tokens", "4096"}),
            std::nullopt)
      << err_.str();
  const auto request = RequestFrom(options_);
  EXPECT_EQ(request.attention().budget_sharing(), gpu_worker::v1::Attention::SHARING_FIXED);
  EXPECT_EQ(request.attention().budget_layer_cap(), 3);
  EXPECT_TRUE(request.attention().has_residual());
  EXPECT_FALSE(request.attention().residual());
  EXPECT_TRUE(request.attention().has_budget_least_share());
  EXPECT_FLOAT_EQ(request.attention().budget_top_p(), 0.9);
  EXPECT_TRUE(request.attention().has_dense_decode_tokens());
  EXPECT_EQ(request.attention().budget_linear_tokens(), 4096u);
}

TEST_F(OptionsTest, DefaultsAreLeftToTheWorker) {
  ASSERT_EQ(Parse({"generate", "p"}), std::nullopt);
  const auto request = RequestFrom(options_);
  EXPECT_EQ(request.attention().budget_sharing(), gpu_worker::v1::Attention::SHARING_UNSPECIFIED);
  EXPECT_FALSE(request.attention().has_budget_least_share());
  EXPECT_FALSE(request.attention().has_residual());
  EXPECT_FALSE(request.attention().has_dense_decode_tokens());
  EXPECT_FALSE(request.attention().has_budget_linear_tokens());
  EXPECT_FALSE(request.has_max_tokens());
  EXPECT_FALSE(request.sampling().has_seed());
  EXPECT_EQ(request.attention().mode(), gpu_worker::v1::Attention::MODE_UNSPECIFIED);
}

}  // namespace
}  // namespace hga
