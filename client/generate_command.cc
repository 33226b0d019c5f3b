#include "client/commands.h"
#include "client/document.h"
#include "client/statistics.h"
#include "common/base/status.h"

namespace hga {
namespace {

using gpu_worker::v1::GenerateRequest;

void AddUserMessage(const std::string& content, GenerateRequest* request) {
  auto* message = request->mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content(content);
}

absl::Status StreamAndReport(const Call& call, const GenerateRequest& request) {
  HGA_ASSIGN_OR_RETURN(const auto finished, StreamAnswer(call, request));
  if (!call.options.quiet) {
    call.console->err << "\n" << StatisticsTable(finished);
    if (!request.session().empty())
      call.console->err << "  session            " << request.session() << std::endl;
  }
  return WriteJson(call, Dump(StatisticsJson(finished, request.session())));
}

// Reads the document, and fills in the session's name where none was given.
absl::StatusOr<std::string> DocumentOf(const Options& options, GenerateRequest* request) {
  HGA_ASSIGN_OR_RETURN(std::string document, ReadDocument(options.file));
  if (request->session().empty()) request->set_session(DocumentSession(document));
  return document;
}

}  // namespace

absl::Status RunAsk(const Call& call) {
  GenerateRequest request = RequestFrom(call.options);
  HGA_RETURN_IF_ERROR(ValidateText("the question", call.options.text));
  HGA_ASSIGN_OR_RETURN(const std::string document, DocumentOf(call.options, &request));
  AddUserMessage(DocumentThenQuestion(document, call.options.text), &request);
  return StreamAndReport(call, request);
}

absl::Status RunGenerate(const Call& call) {
  GenerateRequest request = RequestFrom(call.options);
  HGA_RETURN_IF_ERROR(ValidateText("the prompt", call.options.text));
  if (call.options.raw) {
    request.set_text(call.options.text);
  } else {
    AddUserMessage(call.options.text, &request);
  }
  return StreamAndReport(call, request);
}

absl::Status RunPrefill(const Call& call) {
  GenerateRequest request = RequestFrom(call.options);
  HGA_ASSIGN_OR_RETURN(const std::string document, DocumentOf(call.options, &request));
  // The same beginning as that of a question about it.
  AddUserMessage(DocumentThenQuestion(document, ""), &request);
  request.set_max_tokens(0);
  return StreamAndReport(call, request);
}

}  // namespace hga
