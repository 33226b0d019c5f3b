#include "client/progress.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace hga {
namespace {

constexpr double kLineEverySeconds = 2;
constexpr char kClearLine[] = "\r\033[K";

}  // namespace

ProgressLine::ProgressLine(Console* console, bool quiet, std::function<double()> now_s)
    : console_(console), quiet_(quiet), now_s_(std::move(now_s)), begin_s_(now_s_()), last_s_(begin_s_) {}

void ProgressLine::Started(const gpu_worker::v1::Started& started) {
  begin_s_ = last_s_ = now_s_();
  if (quiet_ || !console_->err_is_terminal) return;
  console_->err << kClearLine
                << absl::StrFormat("prompt of %d tokens, %d from the store", started.prompt_tokens(),
                                   started.reused_tokens())
                << std::flush;
  shown_ = true;
}

void ProgressLine::Update(const gpu_worker::v1::Progress& progress) {
  const double now = now_s_();
  const bool complete = progress.prefilled_tokens() >= progress.to_prefill_tokens();
  if (quiet_ || (!console_->err_is_terminal && !complete && now - last_s_ < kLineEverySeconds)) return;
  // A short prefill is over before anyone could read of it.
  if (!console_->err_is_terminal && complete && now - begin_s_ < kLineEverySeconds) return;
  last_s_ = now;
  const double elapsed = now - begin_s_;
  std::string text =
      absl::StrFormat("prefill %d/%d tokens", progress.prefilled_tokens(), progress.to_prefill_tokens());
  // The first report may come with the beginning itself.
  if (elapsed > 0.01) absl::StrAppendFormat(&text, ", %.0f tokens/s", progress.prefilled_tokens() / elapsed);
  shown_ = console_->err_is_terminal;
  if (shown_) {
    console_->err << kClearLine << text << std::flush;
  } else {
    console_->err << text << std::endl;
  }
}

void ProgressLine::Clear() {
  if (shown_) console_->err << kClearLine << std::flush;
  shown_ = false;
}

}  // namespace hga
