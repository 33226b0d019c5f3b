#include "client/exit_code.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using testing::HasSubstr;

TEST(ExitCodeTest, EveryCode) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("")), 1);
  EXPECT_EQ(ExitCodeOf(absl::DataLossError("")), 1);
  EXPECT_EQ(ExitCodeOf(absl::DeadlineExceededError("")), 1);
  EXPECT_EQ(ExitCodeOf(absl::UnavailableError("")), 3);
  EXPECT_EQ(ExitCodeOf(absl::NotFoundError("")), 4);
  EXPECT_EQ(ExitCodeOf(absl::ResourceExhaustedError("")), 5);
  EXPECT_EQ(ExitCodeOf(absl::FailedPreconditionError("")), 5);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("")), 6);
  EXPECT_EQ(ExitCodeOf(absl::CancelledError("")), 130);
}

TEST(ExitCodeTest, SaysWhatToDo) {
  EXPECT_THAT(Explain(absl::UnavailableError("gone")),
              HasSubstr("error: gone\nStart the stack with deploy/quickstart.sh"));
  EXPECT_THAT(Explain(absl::NotFoundError("session 'x' does not exist")), HasSubstr("hga sessions list"));
  EXPECT_EQ(Explain(absl::NotFoundError("file x does not exist")), "error: file x does not exist\n");
  EXPECT_THAT(Explain(absl::InvalidArgumentError("9000 tokens exceed the model's context")),
              HasSubstr("`hga model`"));
  EXPECT_EQ(Explain(absl::InvalidArgumentError("top_k")), "error: top_k\n");
  EXPECT_EQ(Explain(absl::UnknownError("")), "error: UNKNOWN\n");
}

}  // namespace
}  // namespace hga
