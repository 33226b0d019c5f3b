#include "client/bench/bench_options.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using testing::HasSubstr;

TEST(BenchOptionsTest, DefaultsAreValid) { EXPECT_EQ(BenchOptions().Validate(), absl::OkStatus()); }

TEST(BenchOptionsTest, SaysWhatIsWrong) {
  BenchOptions options;
  options.depths = {512, 64};
  EXPECT_THAT(options.Validate().message(), HasSubstr("--depths 64"));
  options.depths = {512, 512};
  EXPECT_THAT(options.Validate().message(), HasSubstr("twice"));
  options.depths.clear();
  EXPECT_THAT(options.Validate().message(), HasSubstr("--depths"));
  options = BenchOptions();
  options.modes = {"dense", "dense"};
  EXPECT_THAT(options.Validate().message(), HasSubstr("--modes"));
}

TEST(BenchOptionsTest, PromptAndAnswerFitTheContext) {
  BenchOptions options;
  options.depths = {512, 8000};
  options.decode_tokens = 64;
  EXPECT_EQ(CheckDepths(options, 8065), absl::OkStatus());
  const absl::Status status = CheckDepths(options, 8064);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("8000"));
  EXPECT_THAT(status.message(), HasSubstr("context holds 8064"));
  options.prefill_only = true;
  EXPECT_EQ(CheckDepths(options, 8001), absl::OkStatus());
}

TEST(BenchOptionsTest, TokensDependOnTheSeedAlone) {
  const auto tokens = RandomTokens(7, 1000, 259);
  EXPECT_EQ(tokens.size(), 1000u);
  EXPECT_EQ(tokens, RandomTokens(7, 1000, 259));
  EXPECT_NE(tokens, RandomTokens(8, 1000, 259));
  EXPECT_LT(*std::max_element(tokens.begin(), tokens.end()), 259u);
}

}  // namespace
}  // namespace hga
