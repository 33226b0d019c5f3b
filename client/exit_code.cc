#include "client/exit_code.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace hga {
namespace {

std::string InvalidHint(const std::string& message) {
  if (!absl::StrContains(message, "context")) return "";
  return "`hga model` shows how many tokens the model takes. Use a shorter document or a lower --max-tokens.";
}

std::string Hint(const absl::Status& status) {
  const std::string message = absl::AsciiStrToLower(std::string(status.message()));
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return "Start the stack with deploy/quickstart.sh --keep, or name a running worker with --worker "
             "ADDRESS. "
             "Logs are in .hga/logs/.";
    case absl::StatusCode::kNotFound:
      return absl::StrContains(message, "session") ? "`hga sessions list` shows the sessions there are." : "";
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return "Wait until the other call has ended, or choose another --session.";
    case absl::StatusCode::kResourceExhausted:
      return "Try again in a moment; `hga stats` shows what is in use.";
    case absl::StatusCode::kDeadlineExceeded:
      return "Give it longer with --timeout SECONDS. What has been prefilled so far is kept.";
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return InvalidHint(message);
    default:
      return "";
  }
}

}  // namespace

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kUnavailable:
      return kExitNoWorker;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return kExitBusy;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return kExitInvalidRequest;
    case absl::StatusCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitFailure;
  }
}

std::string Explain(const absl::Status& status) {
  const std::string hint = Hint(status);
  const std::string what =
      status.message().empty() ? absl::StatusCodeToString(status.code()) : std::string(status.message());
  return absl::StrCat("error: ", what, "\n", hint, hint.empty() ? "" : "\n");
}

}  // namespace hga
