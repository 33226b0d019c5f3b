#include "client/testing/fake_worker.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace hga {

namespace pb = gpu_worker::v1;

FakeWorker::FakeWorker() {
  char folder[] = "/tmp/hga.XXXXXX";
  folder_ = mkdtemp(folder);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

FakeWorker::~FakeWorker() {
  server_->Shutdown();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::vector<pb::GenerateRequest> FakeWorker::requests() const {
  std::lock_guard<std::mutex> lock(mu_);
  return requests_;
}

bool FakeWorker::WaitForCancellation() {
  std::unique_lock<std::mutex> lock(mu_);
  return cancelled_.wait_for(lock, std::chrono::seconds(10), [this] { return saw_cancellation_; });
}

void FakeWorker::AddToken(const std::string& text) { events.emplace_back().mutable_token()->set_text(text); }

pb::Finished* FakeWorker::AddFinished() { return events.emplace_back().mutable_finished(); }

grpc::Status FakeWorker::Generate(Context* context, const pb::GenerateRequest* request,
                                  grpc::ServerWriter<pb::GenerateEvent>* writer) {
  {
    std::lock_guard<std::mutex> lock(mu_);
    requests_.push_back(*request);
  }
  if (on_generate) on_generate();
  if (!request_id.empty()) context->AddInitialMetadata("x-request-id", request_id);
  if (request->append() && sessions.count(request->session()) == 0) {
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "session '" + request->session() + "' does not exist");
  }
  const bool known = !request->session().empty() && !sessions.insert(request->session()).second;
  for (pb::GenerateEvent event : events) {
    if (known && event.has_finished()) event.mutable_finished()->set_reused_tokens(reused_when_known);
    writer->Write(event);
  }
  // Flow control blocks Write while nobody reads; it returns false once the call is cancelled.
  while (endless && writer->Write(events.back())) {
  }
  if (context->IsCancelled()) {
    std::lock_guard<std::mutex> lock(mu_);
    saw_cancellation_ = true;
    cancelled_.notify_all();
  }
  return status;
}

grpc::Status FakeWorker::GetModel(Context*, const pb::GetModelRequest*, pb::GetModelResponse* response) {
  response->set_name("tiny");
  response->set_context_tokens(8192);
  response->set_vocab_size(259);
  response->set_kv_bytes_per_token(256);
  response->set_layers(2);
  response->set_query_heads(4);
  response->set_kv_heads(2);
  response->set_head_dim(16);
  response->set_active_parameters(1000);
  response->set_output_parameters(200);
  response->set_decode_weight_bytes(1200);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::GetStats(Context*, const pb::GetStatsRequest*, pb::GetStatsResponse* response) {
  response->set_requests_total(7);
  response->set_router_attached(true);
  return grpc::Status::OK;
}

grpc::Status FakeWorker::ListSessions(Context*, const pb::ListSessionsRequest*,
                                      pb::ListSessionsResponse* response) {
  for (const std::string& name : sessions) {
    auto* session = response->add_sessions();
    session->set_name(name);
    session->set_pinned(pinned.count(name) > 0);
  }
  return grpc::Status::OK;
}

grpc::Status FakeWorker::DeleteSession(Context*, const pb::DeleteSessionRequest* request,
                                       pb::DeleteSessionResponse*) {
  if (sessions.erase(request->name()) > 0) return grpc::Status::OK;
  return grpc::Status(grpc::StatusCode::NOT_FOUND, "session '" + request->name() + "' does not exist");
}

grpc::Status FakeWorker::PinSession(Context*, const pb::PinSessionRequest* request, pb::PinSessionResponse*) {
  if (sessions.count(request->name()) == 0)
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "no session '" + request->name() + "'");
  request->pinned() ? (void)pinned.insert(request->name()) : (void)pinned.erase(request->name());
  return grpc::Status::OK;
}

grpc::Status FakeWorker::ForkSession(Context*, const pb::ForkSessionRequest* request, pb::ForkSessionResponse*) {
  if (sessions.count(request->from()) == 0)
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "no session '" + request->from() + "'");
  if (sessions.insert(request->to()).second) return grpc::Status::OK;
  return grpc::Status(grpc::StatusCode::ALREADY_EXISTS, "there is a session '" + request->to() + "'");
}

}  // namespace hga
