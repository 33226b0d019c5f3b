#include <ctime>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/statistics.h"
#include "common/base/status.h"
#include "common/rpc/status.h"

namespace hga {
namespace {

constexpr double kDefaultTimeoutSeconds = 10;

// One unary call with the options' timeout.
template <typename Response, typename Method, typename Request>
absl::StatusOr<Response> Unary(const Call& call, Method method, const Request& request) {
  grpc::ClientContext context;
  SetTimeout(call.options.timeout.value_or(kDefaultTimeoutSeconds), &context);
  const Interrupt::Scope scope(call.interrupt, &context);
  Response response;
  const absl::Status status = FromGrpc((call.stub->*method)(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

absl::Status Show(const Call& call, const std::string& table, const nlohmann::json& json) {
  if (!call.options.json.empty()) return WriteJson(call, Dump(json));
  call.console->out << table << std::flush;
  return absl::OkStatus();
}

}  // namespace

absl::Status RunSessionsList(const Call& call) {
  HGA_ASSIGN_OR_RETURN(const auto sessions,
                       Unary<gpu_worker::v1::ListSessionsResponse>(call, &WorkerStub::ListSessions,
                                                                   gpu_worker::v1::ListSessionsRequest()));
  return Show(call, SessionsTable(sessions, std::time(nullptr)), SessionsJson(sessions));
}

absl::Status RunSessionsDelete(const Call& call) {
  gpu_worker::v1::DeleteSessionRequest request;
  request.set_name(call.options.session);
  HGA_RETURN_IF_ERROR(
      Unary<gpu_worker::v1::DeleteSessionResponse>(call, &WorkerStub::DeleteSession, request).status());
  return Show(call, absl::StrCat("deleted ", request.name(), "\n"), {{"deleted", request.name()}});
}

absl::Status RunExplain(const Call& call) {
  const Options& options = call.options;
  gpu_worker::v1::ExplainRequest request;
  request.set_session(options.session);
  request.set_layer(options.layer);
  if (options.position.has_value()) request.set_position(*options.position);
  request.set_max_chunks(options.chunks);
  *request.mutable_attention() = RequestFrom(options).attention();
  HGA_ASSIGN_OR_RETURN(const auto explained,
                       Unary<gpu_worker::v1::ExplainResponse>(call, &WorkerStub::Explain, request));
  return Show(call, ExplainTable(explained, options.layer), ExplainJson(explained, options.layer));
}

absl::Status RunSessionsFork(const Call& call) {
  gpu_worker::v1::ForkSessionRequest request;
  request.set_from(call.options.session);
  request.set_to(call.options.fork);
  HGA_RETURN_IF_ERROR(Unary<gpu_worker::v1::ForkSessionResponse>(call, &WorkerStub::ForkSession, request).status());
  return Show(call, absl::StrCat(request.to(), " goes on where ", request.from(), " is\n"),
              {{"from", request.from()}, {"to", request.to()}});
}

absl::Status RunSessionsPin(const Call& call, bool pinned) {
  gpu_worker::v1::PinSessionRequest request;
  request.set_name(call.options.session);
  request.set_pinned(pinned);
  HGA_RETURN_IF_ERROR(Unary<gpu_worker::v1::PinSessionResponse>(call, &WorkerStub::PinSession, request).status());
  return Show(call, absl::StrCat(request.name(), pinned ? " is pinned\n" : " is no longer pinned\n"),
              {{"name", request.name()}, {"pinned", pinned}});
}

absl::Status RunStats(const Call& call) {
  HGA_ASSIGN_OR_RETURN(const auto stats, Unary<gpu_worker::v1::GetStatsResponse>(
                                             call, &WorkerStub::GetStats, gpu_worker::v1::GetStatsRequest()));
  return Show(call, StatsTable(stats), StatsJson(stats));
}

absl::Status RunModel(const Call& call) {
  HGA_ASSIGN_OR_RETURN(const auto model, Unary<gpu_worker::v1::GetModelResponse>(
                                             call, &WorkerStub::GetModel, gpu_worker::v1::GetModelRequest()));
  return Show(call, ModelTable(model), ModelJson(model));
}

}  // namespace hga
