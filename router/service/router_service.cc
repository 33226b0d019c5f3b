#include "router/service/router_service.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/request_metadata.h"
#include "common/rpc/status.h"

namespace hga {
namespace {

absl::Span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

absl::Status EncodeInto(const RouteAnswerer& answerer, std::string* message) {
  // Exactly what is needed: an upper bound would be megabytes for a long sequence.
  message->resize(RouteResponseBytes(answerer.response()));
  HGA_ASSIGN_OR_RETURN(const size_t written,
                       EncodeRouteResponse(answerer.geometry(), answerer.response(),
                                           {reinterpret_cast<uint8_t*>(message->data()), message->size()}));
  message->resize(written);
  return absl::OkStatus();
}

}  // namespace

// One worker's Attach stream: says who it is, then stays until either side leaves.
class AttachReactor final : public grpc::ServerWriteReactor<router::v1::AttachEvent> {
 public:
  AttachReactor(RouterService* service, grpc::CallbackServerContext* context,
                const router::v1::AttachRequest& request)
      : service_(service), context_(context) {
    if (!service_->AddStream(context_)) {
      Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the router is stopping"));
      return;
    }
    streaming_ = true;
    const auto worker = service_->workers_.Add(request);
    if (!worker.ok()) {
      Finish(ToGrpc(worker.status()));
      return;
    }
    worker_id_ = (*worker)->id;
    router::v1::Attached* attached = event_.mutable_attached();
    attached->set_worker_id(worker_id_);
    if ((*worker)->ring != nullptr) {
      attached->set_ring_path((*worker)->ring->path());
      attached->set_ring_slot_bytes((*worker)->ring->slot_bytes());
    }
    service_->workers_.FillRules(attached);
    open_ = true;
    StartWrite(&event_);
  }

  void OnCancel() override { Leave(); }
  void OnWriteDone(bool ok) override {
    if (!ok) Leave();
  }
  void OnDone() override {
    if (worker_id_ != 0) service_->workers_.Remove(worker_id_);
    if (streaming_) service_->RemoveStream(context_);
    delete this;
  }

 private:
  void Leave() {
    if (open_.exchange(false)) Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the worker or the router left"));
  }

  RouterService* const service_;
  grpc::CallbackServerContext* const context_;
  router::v1::AttachEvent event_;
  uint64_t worker_id_ = 0;
  bool streaming_ = false;
  std::atomic<bool> open_{false};  // Finish is still to be called
};

RouterService::RouterService(const RouterServiceOptions& options, SummaryIndex* index, RouterMetrics* metrics)
    : index_(index), metrics_(metrics), workers_(options, index, metrics) {
  RemoveStaleRings(options.ring_dir);
}

bool RouterService::AddStream(grpc::ServerContextBase* context) {
  std::lock_guard<std::recursive_mutex> lock(mu_);
  if (!stopping_) streams_.insert(context);
  return !stopping_;
}

void RouterService::RemoveStream(grpc::ServerContextBase* context) {
  std::lock_guard<std::recursive_mutex> lock(mu_);
  streams_.erase(context);
}

void RouterService::StopWorkers() {
  std::lock_guard<std::recursive_mutex> lock(mu_);
  stopping_ = true;
  const std::vector<grpc::ServerContextBase*> streams(streams_.begin(), streams_.end());
  for (grpc::ServerContextBase* context : streams) {
    if (streams_.contains(context)) context->TryCancel();
  }
}

grpc::ServerWriteReactor<router::v1::AttachEvent>* RouterService::Attach(grpc::CallbackServerContext* context,
                                                                         const router::v1::AttachRequest* request) {
  return new AttachReactor(this, context, *request);
}

grpc::Status RouterService::OpenSequence(grpc::ServerContext* context, const router::v1::OpenSequenceRequest* request,
                                         router::v1::OpenSequenceResponse* response) {
  const RequestScope scope(ReceivedRequestId(*context));  // for what kv_store is asked
  return ToGrpc(Open(*request, response));
}

absl::Status RouterService::Open(const router::v1::OpenSequenceRequest& request,
                                 router::v1::OpenSequenceResponse* response) {
  HGA_ASSIGN_OR_RETURN(const auto worker, workers_.Find(request.worker_id()));
  if (request.chunk_hashes_size() > static_cast<int>(kMaxSequenceChunks)) {
    return absl::InvalidArgumentError(absl::StrCat("a sequence has at most ", kMaxSequenceChunks, " chunks"));
  }
  std::vector<ChunkHash> chunks;
  for (const std::string& raw : request.chunk_hashes()) {
    HGA_ASSIGN_OR_RETURN(chunks.emplace_back(), ChunkHash::FromBytes(raw));
  }
  const auto start = std::chrono::steady_clock::now();
  HGA_ASSIGN_OR_RETURN(const OpenedSequence opened, index_->Open(worker->id, request.sequence_id(), worker->geometry,
                                                                 worker->method, chunks));
  // The worker may have left meanwhile; nobody else would drop the sequence then.
  if (!workers_.Find(worker->id).ok()) index_->CloseWorker(worker->id);
  metrics_->CountOpened(opened, std::chrono::steady_clock::now() - start);
  metrics_->SetIndex(index_->totals());
  response->set_indexed_chunks(opened.indexed_chunks);
  response->set_from_memory_chunks(opened.from_memory_chunks);
  return absl::OkStatus();
}

grpc::Status RouterService::AppendSummaries(grpc::ServerContext*, const router::v1::AppendSummariesRequest* request,
                                            router::v1::AppendSummariesResponse* response) {
  return ToGrpc(Append(*request, response));
}

absl::Status RouterService::Append(const router::v1::AppendSummariesRequest& request,
                                   router::v1::AppendSummariesResponse* response) {
  HGA_ASSIGN_OR_RETURN(const auto worker, workers_.Find(request.worker_id()));
  uint32_t index = request.first_chunk();
  for (const types::v1::ChunkSummary& summary : request.summaries()) {
    HGA_ASSIGN_OR_RETURN(const ChunkHash chunk, ChunkHash::FromBytes(summary.chunk_hash()));
    if (summary.method() != worker->method->name) {
      return absl::InvalidArgumentError(absl::StrCat("summary by '", summary.method(), "', the worker attached with '",
                                                     worker->method->name, "'"));
    }
    HGA_ASSIGN_OR_RETURN(const uint32_t indexed,
                         index_->Append(worker->id, request.sequence_id(), index++, chunk, summary.data()));
    response->set_indexed_chunks(indexed);
    metrics_->CountAppended();
  }
  metrics_->SetIndex(index_->totals());
  return absl::OkStatus();
}

grpc::Status RouterService::CloseSequence(grpc::ServerContext*, const router::v1::CloseSequenceRequest* request,
                                          router::v1::CloseSequenceResponse*) {
  index_->Close(request->worker_id(), request->sequence_id());
  metrics_->SetIndex(index_->totals());
  return grpc::Status::OK;
}

grpc::Status RouterService::Route(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<router::v1::RouteEnvelope, router::v1::RouteEnvelope>* stream) {
  if (!AddStream(context)) return {grpc::StatusCode::UNAVAILABLE, "the router is stopping"};
  std::unique_ptr<RouteAnswerer> answerer;
  uint64_t worker_id = 0;
  router::v1::RouteEnvelope in, out;
  while (stream->Read(&in)) {
    out.Clear();
    AnswerEnvelope(in, &answerer, &worker_id, &out);
    if (!stream->Write(out)) break;
  }
  RemoveStream(context);
  return grpc::Status::OK;
}

void RouterService::AnswerEnvelope(const router::v1::RouteEnvelope& in, std::unique_ptr<RouteAnswerer>* answerer,
                                   uint64_t* worker_id, router::v1::RouteEnvelope* out) {
  const auto start = std::chrono::steady_clock::now();
  const auto worker = workers_.Find(in.worker_id());
  absl::Status status = worker.status();
  if (status.ok() && (*answerer == nullptr || *worker_id != in.worker_id())) {
    *answerer = workers_.NewAnswerer(**worker);
    *worker_id = in.worker_id();
  }
  if (status.ok()) status = (*answerer)->Answer(Bytes(in.message()));
  if (status.ok()) status = EncodeInto(**answerer, out->mutable_message());
  if (!status.ok()) {
    out->clear_message();
    out->set_code(static_cast<int32_t>(status.code()));
    out->set_error(std::string(status.message()));
  }
  out->set_worker_id(in.worker_id());
  metrics_->CountExchange(metrics_->stream(), status, std::chrono::steady_clock::now() - start,
                          *answerer == nullptr ? 0 : (*answerer)->response().blocks.size(),
                          *answerer == nullptr ? SelectTimes() : (*answerer)->TakeTimes());
}

grpc::Status RouterService::GetStats(grpc::ServerContext*, const router::v1::GetStatsRequest*,
                                     router::v1::GetStatsResponse* response) {
  const SummaryIndex::Totals totals = index_->totals();
  response->set_sequences(totals.sequences);
  response->set_chunks(totals.chunks);
  response->set_index_bytes(totals.bytes);
  response->set_ring_exchanges(metrics_->ring().count());
  response->set_stream_exchanges(metrics_->stream().count());
  response->set_selections(metrics_->selections());
  response->set_rebuilt_chunks(totals.rebuilt_chunks);
  return grpc::Status::OK;
}

}  // namespace hga
