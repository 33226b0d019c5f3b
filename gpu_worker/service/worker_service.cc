#include "gpu_worker/service/worker_service.h"

#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/request_metadata.h"
#include "common/rpc/status.h"
#include "gpu_worker/model/token_work.h"
#include "gpu_worker/service/convert.h"

namespace hga {
namespace {

// How often a call that waits for events looks whether its caller is still there.
constexpr absl::Duration kPoll = absl::Milliseconds(20);

}  // namespace

grpc::Status WorkerService::Generate(grpc::ServerContext* context, const gpu_worker::v1::GenerateRequest* request,
                                     grpc::ServerWriter<gpu_worker::v1::GenerateEvent>* writer) {
  std::string id = ReceivedRequestId(*context);
  if (id.empty()) id = NewRequestId();
  context->AddInitialMetadata(kRequestIdKey, id);
  return ToGrpc(GenerateNow(context, id, *request, writer));
}

absl::Status WorkerService::GenerateNow(grpc::ServerContext* context, const std::string& request_id,
                                        const gpu_worker::v1::GenerateRequest& in,
                                        grpc::ServerWriter<gpu_worker::v1::GenerateEvent>* writer) {
  HGA_ASSIGN_OR_RETURN(auto request, ToEngineRequest(*model_, engine_->options().budget, in));
  request.id = request_id;
  HGA_ASSIGN_OR_RETURN(auto events, engine_->Submit(std::move(request)));
  return Follow(context, events.get(), [&](const EngineEvent& event) {
    gpu_worker::v1::GenerateEvent out = ToProto(event);
    if (out.has_finished()) out.mutable_finished()->set_request_id(request_id);
    return writer->Write(out);
  });
}

absl::Status WorkerService::Follow(grpc::ServerContext* context, EventStream* events,
                                   const std::function<bool(const EngineEvent&)>& take) const {
  bool reachable = true;
  for (;;) {
    const auto event = events->Next(kPoll);
    if (context->IsCancelled()) {
      reachable = false;
      const bool late = context->deadline() <= std::chrono::system_clock::now();
      events->Cancel(late ? absl::DeadlineExceededError("the deadline has passed")
                          : absl::CancelledError("the caller has gone"));
    }
    if (!event.has_value()) continue;
    if (event->kind == EngineEvent::Kind::kFailed) return event->status;
    if (reachable && !take(*event)) {
      reachable = false;
      events->Cancel(absl::CancelledError("the caller has gone"));
    }
    if (event->kind == EngineEvent::Kind::kFinished) return absl::OkStatus();
  }
}

grpc::Status WorkerService::Explain(grpc::ServerContext* context, const gpu_worker::v1::ExplainRequest* request,
                                    gpu_worker::v1::ExplainResponse* response) {
  return ToGrpc(ExplainNow(context, *request, response));
}

// A nameless request for the session's tokens up to the one that is asked about.
absl::Status WorkerService::ExplainNow(grpc::ServerContext* context, const gpu_worker::v1::ExplainRequest& in,
                                       gpu_worker::v1::ExplainResponse* response) {
  HGA_RETURN_IF_ERROR(ValidateSessionName(in.session()));
  HGA_ASSIGN_OR_RETURN(const auto tokens, store_->GetSession(in.session(), model_->fingerprint));
  if (tokens.empty()) return absl::NotFoundError(absl::StrCat("session '", in.session(), "' is empty"));
  const uint64_t position = in.has_position() ? in.position() : tokens.size() - 1;
  if (position >= tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("position ", position, "; the session has positions 0 to ", tokens.size() - 1));
  }
  gpu_worker::v1::GenerateRequest generate;
  generate.mutable_tokens()->mutable_ids()->Add(tokens.begin(), tokens.begin() + position + 1);
  *generate.mutable_attention() = in.attention();
  generate.set_max_tokens(1);
  HGA_ASSIGN_OR_RETURN(auto request, ToEngineRequest(*model_, engine_->options().budget, generate));
  const auto probe = std::make_shared<AttentionProbe>();
  probe->layer = in.layer();
  probe->method = engine_->summary_method();
  request.probe = probe;
  HGA_ASSIGN_OR_RETURN(auto events, engine_->Submit(std::move(request)));
  HGA_RETURN_IF_ERROR(Follow(context, events.get(), [&](const EngineEvent& event) {
    for (const std::string& warning : event.stats.warnings) {
      if (event.kind == EngineEvent::Kind::kFinished) response->add_warnings(warning);
    }
    return true;
  }));
  if (!probe->result.has_value()) return absl::InternalError("the token was not attended");
  ToProto(*probe->result, in.max_chunks(), response);
  response->set_token(tokens[position]);
  return absl::OkStatus();
}

grpc::Status WorkerService::GetModel(grpc::ServerContext*, const gpu_worker::v1::GetModelRequest*,
                                     gpu_worker::v1::GetModelResponse* response) {
  const ModelConfig& config = model_->weights.config;
  response->set_name(config.name);
  response->set_architecture(config.architecture);
  response->set_context_tokens(config.context_tokens);
  response->set_vocab_size(config.vocab_size);
  response->set_parameters(model_->parameters);
  response->set_kv_bytes_per_token(info_.kv_bytes_per_token);
  response->set_backend(info_.backend);
  response->set_threads(info_.threads);
  response->set_layers(config.layers);
  response->set_query_heads(config.query_heads);
  response->set_kv_heads(config.kv_heads);
  response->set_head_dim(config.head_dim);
  const TokenWork work = CountTokenWork(model_->weights);
  response->set_active_parameters(work.layer_parameters);
  response->set_output_parameters(work.output_parameters);
  response->set_decode_weight_bytes(work.decode_bytes);
  return grpc::Status::OK;
}

grpc::Status WorkerService::GetStats(grpc::ServerContext*, const gpu_worker::v1::GetStatsRequest*,
                                     gpu_worker::v1::GetStatsResponse* response) {
  const EngineTotals totals = engine_->totals();
  response->set_requests_total(totals.requests);
  response->set_requests_active(totals.active);
  response->set_prefill_tokens_total(totals.prefill_tokens);
  response->set_decode_tokens_total(totals.decode_tokens);
  ToProto(totals.tiers, response->mutable_tiers());
  response->set_router_attached(link_->attached());
  response->set_kv_store_attached(store_->connected());
  response->set_dense_fallback_steps_total(totals.dense_fallback_steps);
  AddRouterStats(response);
  const auto stats = store_->connected() ? store_->GetStats() : absl::UnavailableError("kv_store is away");
  if (!stats.ok()) return grpc::Status::OK;
  auto* out = response->mutable_kv_store();
  out->set_slots_total(stats->slots_total);
  out->set_slots_free(stats->slots_free);
  out->set_slots_held(stats->slots_held);
  out->set_slots_dirty(stats->slots_dirty);
  out->set_sessions(stats->sessions);
  out->set_chunks(stats->chunks);
  out->set_chunks_durable(stats->chunks_durable);
  out->set_disk_bytes(stats->disk_bytes);
  out->set_evictions(stats->evictions);
  return grpc::Status::OK;
}

void WorkerService::AddRouterStats(gpu_worker::v1::GetStatsResponse* response) const {
  const auto client = link_->current().client;
  if (client == nullptr) return;
  const auto stats = client->GetStats();
  if (!stats.ok()) return;
  auto* out = response->mutable_router();
  out->set_sequences(stats->sequences);
  out->set_chunks(stats->chunks);
  out->set_index_bytes(stats->index_bytes);
  out->set_tokens(stats->chunks * model_->weights.config.Geometry().chunk_tokens);
  out->set_selections(stats->selections);
}

grpc::Status WorkerService::ListSessions(grpc::ServerContext*, const gpu_worker::v1::ListSessionsRequest*,
                                         gpu_worker::v1::ListSessionsResponse* response) {
  const auto sessions = store_->ListSessions();
  if (!sessions.ok()) return ToGrpc(sessions.status());
  for (const SessionSummary& s : *sessions) {
    auto* out = response->add_sessions();
    out->set_name(s.name);
    out->set_tokens(s.tokens);
    out->set_bytes(s.bytes);
    out->set_last_used_unix_s(s.last_used_unix_s);
    out->set_open(s.open);
    out->set_chunks(s.chunks);
    out->set_chunks_durable(s.chunks_durable);
    out->set_pinned(s.pinned);
  }
  return grpc::Status::OK;
}

grpc::Status WorkerService::DeleteSession(grpc::ServerContext*, const gpu_worker::v1::DeleteSessionRequest* request,
                                          gpu_worker::v1::DeleteSessionResponse*) {
  const absl::Status valid = ValidateSessionName(request->name());
  return ToGrpc(valid.ok() ? store_->DeleteSession(request->name()) : valid);
}

grpc::Status WorkerService::ForkSession(grpc::ServerContext*, const gpu_worker::v1::ForkSessionRequest* request,
                                        gpu_worker::v1::ForkSessionResponse*) {
  absl::Status status = ValidateSessionName(request->from());
  status.Update(ValidateSessionName(request->to()));
  return ToGrpc(status.ok() ? store_->ForkSession(request->from(), request->to()) : status);
}

grpc::Status WorkerService::PinSession(grpc::ServerContext*, const gpu_worker::v1::PinSessionRequest* request,
                                       gpu_worker::v1::PinSessionResponse*) {
  const absl::Status valid = ValidateSessionName(request->name());
  return ToGrpc(valid.ok() ? store_->PinSession(request->name(), request->pinned()) : valid);
}

}  // namespace hga
