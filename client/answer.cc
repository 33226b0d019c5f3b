#include "client/answer.h"

#include <chrono>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "client/progress.h"
#include "common/rpc/request_metadata.h"
#include "common/rpc/status.h"

namespace hga {
namespace {

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Names the request, by which the daemons' logs are searched. Once the call has ended.
absl::Status WithRequestId(const absl::Status& status, const grpc::ClientContext& context) {
  const std::string id = RequestIdIn(context.GetServerInitialMetadata());
  if (id.empty()) return status;
  return absl::Status(status.code(), absl::StrCat(std::string(status.message()), " (request ", id, ")"));
}

}  // namespace

absl::StatusOr<gpu_worker::v1::Finished> StreamAnswer(const Call& call,
                                                      const gpu_worker::v1::GenerateRequest& request) {
  grpc::ClientContext context;
  SetTimeout(call.options.timeout.value_or(0), &context);
  const Interrupt::Scope scope(call.interrupt, &context);
  ProgressLine progress(call.console, call.options.quiet, NowSeconds);
  const auto reader = call.stub->Generate(&context, request);

  gpu_worker::v1::GenerateEvent event;
  gpu_worker::v1::Finished finished;
  bool has_finished = false;
  bool has_text = false;
  while (reader->Read(&event)) {
    if (event.has_started()) progress.Started(event.started());
    if (event.has_progress()) progress.Update(event.progress());
    if (event.has_token() && !event.token().text().empty()) {
      progress.Clear();
      call.console->out << event.token().text() << std::flush;
      has_text = true;
    }
    if (event.has_finished()) {
      finished = event.finished();
      has_finished = true;
    }
  }
  progress.Clear();
  if (has_text) call.console->out << std::endl;
  const absl::Status status = FromGrpc(reader->Finish());
  if (call.interrupt->triggered()) return absl::CancelledError("interrupted; what has been computed is kept");
  // Cancelled without our asking: the worker is shutting down.
  if (absl::IsCancelled(status))
    return absl::UnavailableError("the worker ended the call; is it being stopped?");
  if (!status.ok()) return WithRequestId(status, context);
  if (!has_finished) return absl::InternalError("the worker ended the answer without its statistics");
  return finished;
}

absl::Status WriteJson(const Call& call, const std::string& line) {
  if (call.options.json.empty()) return absl::OkStatus();
  if (call.options.json == "-") {
    call.console->out << line << std::endl;
    return absl::OkStatus();
  }
  std::ofstream file(call.options.json, std::ios::trunc);
  file << line << std::endl;
  if (file) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot write ", call.options.json));
}

}  // namespace hga
