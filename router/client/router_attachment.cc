#include "router/client/router_attachment.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/request_metadata.h"
#include "common/rpc/status.h"
#include "common/kv/proto_geometry.h"

namespace hga {
namespace {

// Opening may rebuild a long index from kv_store.
constexpr absl::Duration kOpenTimeout = absl::Seconds(60);

}  // namespace

RouterAttachment::RouterAttachment(const RouteAttachOptions& options)
    : options_(options), stub_(router::v1::Router::NewStub(Connect(options.address))) {}

absl::StatusOr<std::unique_ptr<RouterAttachment>> RouterAttachment::Start(const RouteAttachOptions& options,
                                                                          bool want_ring) {
  HGA_RETURN_IF_ERROR(ValidateAddress(options.address));
  std::unique_ptr<RouterAttachment> attachment(new RouterAttachment(options));
  attachment->thread_ = std::thread(&RouterAttachment::ReadStream, attachment.get(), want_ring);
  HGA_RETURN_IF_ERROR(attachment->WaitAttached());
  return attachment;
}

RouterAttachment::~RouterAttachment() {
  context_.TryCancel();
  if (thread_.joinable()) thread_.join();
}

absl::Status RouterAttachment::WaitAttached() {
  std::unique_lock<std::mutex> lock(mu_);
  changed_.wait_for(lock, absl::ToChronoMilliseconds(options_.timeout), [&] { return started_ || ended_; });
  if (started_) return absl::OkStatus();
  if (!ended_) return absl::UnavailableError(absl::StrCat("no answer from the router at ", options_.address));
  if (!end_status_.ok()) return end_status_;
  return absl::UnavailableError(absl::StrCat("the router at ", options_.address, " ended the attachment"));
}

void RouterAttachment::ReadStream(bool want_ring) {
  router::v1::AttachRequest request;
  request.set_worker_name(options_.worker_name);
  request.set_method(options_.method);
  request.set_channel_energies(options_.channel_energies);
  request.set_want_ring(want_ring);
  request.set_ring_slot_bytes(options_.max_message_bytes);
  GeometryToProto(options_.geometry, request.mutable_geometry());
  const auto reader = stub_->Attach(&context_, request);
  router::v1::AttachEvent event;
  while (reader->Read(&event)) {
    std::lock_guard<std::mutex> lock(mu_);
    if (!event.has_attached() || started_) continue;
    attached_ = event.attached();
    connected_ = true;
    started_ = true;
    changed_.notify_all();
  }
  const absl::Status status = FromGrpc(reader->Finish());
  connected_ = false;
  std::function<void()> on_end;
  {
    std::lock_guard<std::mutex> lock(mu_);
    ended_ = true;
    end_status_ = status;
    on_end = on_end_;
    changed_.notify_all();
  }
  if (on_end) on_end();
}

void RouterAttachment::NotifyEnd(std::function<void()> on_end) {
  {
    std::lock_guard<std::mutex> lock(mu_);
    on_end_ = on_end;
    if (!ended_) return;
  }
  on_end();
}

template <typename Request, typename Response>
absl::Status RouterAttachment::Call(grpc::Status (router::v1::Router::Stub::*method)(grpc::ClientContext*,
                                                                                     const Request&, Response*),
                                    absl::Duration timeout, const Request& request, Response* response) {
  ++rpcs_;
  if (!connected()) return absl::UnavailableError(absl::StrCat("the router at ", options_.address, " is gone"));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  SendRequestId(&context);
  const absl::Status status = FromGrpc((stub_.get()->*method)(&context, request, response));
  if (status.code() != absl::StatusCode::kDeadlineExceeded) return status;
  return absl::UnavailableError(absl::StrCat("the router at ", options_.address, " does not answer"));
}

absl::StatusOr<uint32_t> RouterAttachment::OpenSequence(uint64_t sequence_id, absl::Span<const ChunkHash> chunks) {
  router::v1::OpenSequenceRequest request;
  request.set_worker_id(attached_.worker_id());
  request.set_sequence_id(sequence_id);
  for (const ChunkHash& chunk : chunks) request.add_chunk_hashes(chunk.ToBytes());
  router::v1::OpenSequenceResponse response;
  HGA_RETURN_IF_ERROR(Call(&router::v1::Router::Stub::OpenSequence, kOpenTimeout, request, &response));
  if (response.indexed_chunks() > chunks.size()) {
    return absl::InternalError("the router claims more chunks than it was told of");
  }
  return response.indexed_chunks();
}

absl::Status RouterAttachment::AppendSummary(uint64_t sequence_id, uint32_t chunk_index, const ChunkHash& chunk,
                                             const std::string& data) {
  router::v1::AppendSummariesRequest request;
  request.set_worker_id(attached_.worker_id());
  request.set_sequence_id(sequence_id);
  request.set_first_chunk(chunk_index);
  types::v1::ChunkSummary* summary = request.add_summaries();
  summary->set_chunk_hash(chunk.ToBytes());
  summary->set_method(options_.method);
  summary->set_data(data);
  router::v1::AppendSummariesResponse response;
  return Call(&router::v1::Router::Stub::AppendSummaries, options_.timeout, request, &response);
}

void RouterAttachment::CloseSequence(uint64_t sequence_id) {
  router::v1::CloseSequenceRequest request;
  request.set_worker_id(attached_.worker_id());
  request.set_sequence_id(sequence_id);
  router::v1::CloseSequenceResponse response;
  // A router that cannot be told has lost the sequence with the attachment, or will.
  Call(&router::v1::Router::Stub::CloseSequence, options_.timeout, request, &response).IgnoreError();
}

absl::StatusOr<RouterStats> RouterAttachment::GetStats() {
  router::v1::GetStatsResponse response;
  HGA_RETURN_IF_ERROR(
      Call(&router::v1::Router::Stub::GetStats, options_.timeout, router::v1::GetStatsRequest(), &response));
  RouterStats stats;
  stats.sequences = response.sequences();
  stats.chunks = response.chunks();
  stats.index_bytes = response.index_bytes();
  stats.selections = response.selections();
  return stats;
}

}  // namespace hga
