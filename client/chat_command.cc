#include <ctime>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/document.h"
#include "client/statistics.h"
#include "common/base/status.h"

namespace hga {
namespace {

using gpu_worker::v1::Finished;
using gpu_worker::v1::GenerateRequest;

std::string NameFromTime() {
  char text[32];
  const std::time_t now = std::time(nullptr);
  std::tm utc;
  gmtime_r(&now, &utc);
  std::strftime(text, sizeof text, "chat-%Y%m%d-%H%M%S", &utc);
  return text;
}

// A first turn goes on with a session of that name, and begins one where there is none.
absl::StatusOr<Finished> Turn(const Call& call, bool first, GenerateRequest* request) {
  request->set_append(true);
  auto finished = StreamAnswer(call, *request);
  if (!first || !absl::IsNotFound(finished.status())) return finished;
  request->set_append(false);
  return StreamAnswer(call, *request);
}

absl::Status Answer(const Call& call, const std::string& line, bool first, GenerateRequest* request) {
  HGA_RETURN_IF_ERROR(ValidateText("the message", line));
  auto* message = request->mutable_chat()->mutable_messages()->Add();
  message->set_role("user");
  message->set_content(line);
  const auto finished = Turn(call, first, request);
  request->clear_chat();
  if (!finished.ok()) return finished.status();
  if (!call.options.quiet) {
    call.console->err << StatisticsLine(*finished) << "\n";
    for (const std::string& warning : finished->warnings())
      call.console->err << "warning: " << warning << "\n";
    call.console->err << std::flush;
  }
  return WriteJson(call, Dump(StatisticsJson(*finished, request->session())));
}

}  // namespace

absl::Status RunChat(const Call& call) {
  GenerateRequest request = RequestFrom(call.options);
  if (request.session().empty()) request.set_session(NameFromTime());
  if (!call.options.quiet) {
    call.console->err << "session " << request.session()
                      << "; /quit ends. Go on later with: hga chat --session " << request.session()
                      << std::endl;
  }
  bool first = true;
  std::string line;
  while (true) {
    if (call.console->in_is_terminal) call.console->err << "> " << std::flush;
    if (!std::getline(call.console->in, line) || line == "/quit") return absl::OkStatus();
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    HGA_RETURN_IF_ERROR(Answer(call, line, first, &request));
    first = false;
  }
}

}  // namespace hga
