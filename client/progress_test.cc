#include "client/progress.h"

#include <sstream>

#include "gtest/gtest.h"

namespace hga {
namespace {

class ProgressTest : public testing::Test {
 protected:
  void Show(ProgressLine* line, uint32_t done, double at) {
    now_ = at;
    gpu_worker::v1::Progress progress;
    progress.set_prefilled_tokens(done);
    progress.set_to_prefill_tokens(6400);
    line->Update(progress);
  }
  ProgressLine Line(bool terminal, bool quiet) {
    console_.err_is_terminal = terminal;
    return ProgressLine(&console_, quiet, [this] { return now_; });
  }

  double now_ = 0;
  std::istringstream in_;
  std::ostringstream out_;
  std::ostringstream err_;
  Console console_{in_, out_, err_};
};

TEST_F(ProgressTest, TerminalLineRewritesItself) {
  ProgressLine line = Line(true, false);
  Show(&line, 1600, 2);
  EXPECT_EQ(err_.str(), "\r\033[Kprefill 1600/6400 tokens, 800 tokens/s");
  err_.str("");
  line.Clear();
  EXPECT_EQ(err_.str(), "\r\033[K");
  err_.str("");
  line.Clear();
  EXPECT_EQ(err_.str(), "");
}

TEST_F(ProgressTest, LogGetsALineEveryTwoSecondsAndTheLast) {
  ProgressLine line = Line(false, false);
  Show(&line, 800, 1);
  EXPECT_EQ(err_.str(), "");
  Show(&line, 1600, 2);
  Show(&line, 2400, 3);
  Show(&line, 6400, 3.5);
  EXPECT_EQ(err_.str(), "prefill 1600/6400 tokens, 800 tokens/s\nprefill 6400/6400 tokens, 1829 tokens/s\n");
  EXPECT_EQ(out_.str(), "");
}

TEST_F(ProgressTest, ShortPrefillAndQuietSayNothing) {
  ProgressLine line = Line(false, false);
  Show(&line, 6400, 1);
  ProgressLine quiet = Line(true, true);
  Show(&quiet, 6400, 9);
  quiet.Clear();
  EXPECT_EQ(err_.str(), "");
}

}  // namespace
}  // namespace hga
