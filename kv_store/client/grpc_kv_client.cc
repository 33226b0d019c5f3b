#include "kv_store/client/grpc_kv_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/kv/proto_geometry.h"
#include "common/rpc/channel.h"
#include "common/rpc/request_metadata.h"
#include "common/rpc/status.h"

namespace hga {
namespace {

namespace pb = kv_store::v1;
constexpr std::chrono::milliseconds kFirstBackoff(20);
constexpr std::chrono::milliseconds kMaxBackoff(1000);
constexpr uint32_t kMaxBrokenRings = 3;  // after so many this client fetches by gRPC

bool IsRefusal(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status);
}

}  // namespace

// --- Attaching ---

GrpcKvClient::GrpcKvClient(const GrpcKvClientOptions& options)
    : options_(options),
      stub_(pb::KvStore::NewStub(Connect(options.address))),
      releases_(std::make_shared<ReleaseQueue>()),
      remote_(options.remote_bytes == 0 ? nullptr
                                        : std::make_unique<RemoteBlocks>(options.geometry, options.remote_bytes)),
      last_error_(absl::UnavailableError("kv_store has not answered yet")) {
  attach_thread_ = std::thread([this] { AttachLoop(); });
  release_thread_ = std::thread([this] { ReleaseLoop(); });
}

absl::StatusOr<std::unique_ptr<GrpcKvClient>> GrpcKvClient::Attach(const GrpcKvClientOptions& options) {
  HGA_RETURN_IF_ERROR(ValidateAddress(options.address));
  if (options.geometry.layers != 0) HGA_RETURN_IF_ERROR(options.geometry.Validate());
  if (options.remote_bytes != 0) HGA_RETURN_IF_ERROR(RemoteBlocks::Check(options.geometry, options.remote_bytes));
  std::unique_ptr<GrpcKvClient> client(new GrpcKvClient(options));
  HGA_RETURN_IF_ERROR(client->WaitAttached());
  return client;
}

GrpcKvClient::~GrpcKvClient() {
  FlushReleases();
  releases_->Close();
  {
    std::lock_guard<std::mutex> lock(mu_);
    stopping_ = true;
    if (stream_context_ != nullptr) stream_context_->TryCancel();
  }
  changed_.notify_all();
  attach_thread_.join();
  release_thread_.join();
}

absl::Status GrpcKvClient::WaitAttached() {
  std::unique_lock<std::mutex> lock(mu_);
  changed_.wait_for(lock, std::chrono::milliseconds(options_.attach_timeout_ms),
                    [this] { return attachment_ != nullptr || gave_up_; });
  if (attachment_ != nullptr) return absl::OkStatus();
  return absl::Status(last_error_.code(), absl::StrCat("cannot attach to kv_store at ", options_.address,
                                                       ": ", last_error_.message()));
}

void GrpcKvClient::AttachLoop() {
  auto backoff = kFirstBackoff;
  for (;;) {
    grpc::ClientContext context;
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (stopping_) return;
      stream_context_ = &context;
    }
    const absl::Status status = RunStream(&context);
    std::unique_lock<std::mutex> lock(mu_);
    stream_context_ = nullptr;
    const AttachmentPtr ended = std::exchange(attachment_, nullptr);
    const bool was_attached = ended != nullptr;
    if (was_attached && ended->ring != nullptr && !stopping_) ended->ring->Close();  // wakes who waits on it
    last_error_ = status.ok() ? absl::UnavailableError("kv_store ended the stream") : status;
    gave_up_ = !ever_attached_ && IsRefusal(status);
    changed_.notify_all();
    if (gave_up_ || stopping_) return;
    if (was_attached) LogWarning("kv_store is gone, attaching again", {{"address", options_.address}});
    backoff = was_attached ? kFirstBackoff : std::min(backoff * 2, kMaxBackoff);
    changed_.wait_for(lock, backoff, [this] { return stopping_; });
  }
}

// Returns when the stream has ended, with the reason.
absl::Status GrpcKvClient::RunStream(grpc::ClientContext* context) {
  pb::AttachRequest request;
  request.set_client_name(options_.client_name);
  GeometryToProto(options_.geometry, request.mutable_geometry());
  request.set_blocks_as_bytes(remote_ != nullptr);
  request.set_fetch_ring(options_.fetch_ring && remote_ == nullptr && rings_broken_.load() < kMaxBrokenRings);
  ++rpcs_;
  const auto stream = stub_->Attach(context, request);
  pb::AttachEvent event;
  while (stream->Read(&event)) {
    if (event.has_reclaim()) reclaim_ = std::max(reclaim_.load(), event.reclaim().slots());
    if (!event.has_attached()) continue;
    auto attachment = Map(event.attached());
    if (!attachment.ok()) {
      context->TryCancel();
      stream->Finish();
      return attachment.status();
    }
    {
      std::lock_guard<std::mutex> lock(mu_);
      attachment_ = *std::move(attachment);
      ever_attached_ = true;
    }
    changed_.notify_all();
  }
  return FromGrpc(stream->Finish());
}

absl::StatusOr<GrpcKvClient::AttachmentPtr> GrpcKvClient::Map(const pb::Attached& attached) const {
  auto attachment = std::make_shared<Attachment>();
  attachment->client_id = attached.client_id();
  if (options_.geometry.layers == 0 || remote_ != nullptr) return AttachmentPtr(attachment);
  const ArenaShape shape{attached.generation(), attached.slot_bytes(), attached.slot_count()};
  if (shape.slot_bytes < options_.geometry.block_bytes()) {
    return absl::FailedPreconditionError("kv_store's slots are smaller than a block of this model");
  }
  if (attached.lock_byte() < kLockBytesOffset || attached.lock_byte() >= kSlotsOffset) {
    return absl::FailedPreconditionError("kv_store named a lock byte outside the arena's lock page");
  }
  HGA_ASSIGN_OR_RETURN(Arena arena, Arena::Open(attached.arena_path(), shape));
  HGA_RETURN_IF_ERROR(arena.LockByte(attached.lock_byte()));
  std::function<void()> before_unmap;
  if (options_.on_map && shape.slot_count > 0) {
    before_unmap = options_.on_map(arena.Slot(0), shape.slot_bytes * shape.slot_count);
  }
  const std::shared_ptr<const Arena> mapping(new Arena(std::move(arena)), [before_unmap](const Arena* mapped) {
    if (before_unmap) before_unmap();
    delete mapped;
  });
  attachment->arena = mapping;
  attachment->releaser = std::make_shared<const HeldBlock::Releaser>(
      [mapping, queue = releases_, id = attached.client_id()](uint32_t slot) {
        queue->Push({id, slot});
      });
  if (!attached.ring_path().empty()) {
    auto ring = FetchRing::Open(attached.ring_path());
    if (!ring.ok()) LogWarning("no ring to kv_store, fetching by gRPC", {{"error", ring.status().message()}});
    if (ring.ok()) attachment->ring = *std::move(ring);
  }
  return AttachmentPtr(attachment);
}

absl::StatusOr<GrpcKvClient::AttachmentPtr> GrpcKvClient::Current() const {
  std::lock_guard<std::mutex> lock(mu_);
  if (attachment_ != nullptr) return attachment_;
  return absl::UnavailableError(
      absl::StrCat("kv_store at ", options_.address, " is gone: ", last_error_.message()));
}

absl::StatusOr<GrpcKvClient::AttachmentPtr> GrpcKvClient::CurrentWithArena() const {
  HGA_ASSIGN_OR_RETURN(AttachmentPtr attachment, Current());
  if (attachment->arena != nullptr) return attachment;
  return absl::FailedPreconditionError("this client is attached without a geometry, so it has no blocks");
}

bool GrpcKvClient::connected() const { return Current().ok(); }

// --- Calls ---

absl::StatusOr<OpenedSession> GrpcKvClient::OpenSession(const std::string& name,
                                                        const ModelFingerprint& model,
                                                        absl::Span<const ChunkHash> chunks) {
  HGA_ASSIGN_OR_RETURN(const AttachmentPtr attachment, Current());
  pb::OpenSessionRequest request;
  request.set_client_id(attachment->client_id);
  request.set_name(name);
  request.set_model_fingerprint(model.ToBytes());
  for (const ChunkHash& chunk : chunks) request.add_chunk_hashes(chunk.ToBytes());
  pb::OpenSessionResponse response;
  HGA_RETURN_IF_ERROR(Call(&pb::KvStore::Stub::OpenSession, request, &response));
  if (response.matched_chunks() > chunks.size())
    return absl::InternalError("kv_store matched more than was asked");
  return OpenedSession{response.session_id(), response.epoch(), response.matched_chunks(),
                       response.matched_in_ram()};
}

absl::Status GrpcKvClient::UpdateSession(const OpenedSession& session, absl::Span<const ChunkHash> chunks,
                                         absl::Span<const uint32_t> tail_tokens) {
  HGA_ASSIGN_OR_RETURN(const AttachmentPtr attachment, Current());
  pb::UpdateSessionRequest request;
  request.set_client_id(attachment->client_id);
  request.set_session_id(session.session_id);
  request.set_epoch(session.epoch);
  for (const ChunkHash& chunk : chunks) request.add_chunk_hashes(chunk.ToBytes());
  request.mutable_tail_tokens()->Add(tail_tokens.begin(), tail_tokens.end());
  pb::UpdateSessionResponse response;
  return Call(&pb::KvStore::Stub::UpdateSession, request, &response);
}

absl::Status GrpcKvClient::CloseSession(const OpenedSession& session) {
  HGA_ASSIGN_OR_RETURN(const AttachmentPtr attachment, Current());
  pb::CloseSessionRequest request;
  request.set_client_id(attachment->client_id);
  request.set_session_id(session.session_id);
  request.set_epoch(session.epoch);
  pb::CloseSessionResponse response;
  return Call(&pb::KvStore::Stub::CloseSession, request, &response);
}

absl::StatusOr<std::vector<uint32_t>> GrpcKvClient::GetSession(const std::string& name,
                                                               const ModelFingerprint& model) {
  pb::GetSessionRequest request;
  request.set_name(name);
  pb::GetSessionResponse response;
  HGA_RETURN_IF_ERROR(Call(&pb::KvStore::Stub::GetSession, request, &response));
  if (response.model_fingerprint() != model.ToBytes()) {
    return absl::FailedPreconditionError(absl::StrCat("session '", name, "' was written by another model"));
  }
  return std::vector<uint32_t>(response.token_ids().begin(), response.token_ids().end());
}

absl::StatusOr<std::vector<SessionSummary>> GrpcKvClient::ListSessions() {
  pb::ListSessionsResponse response;
  HGA_RETURN_IF_ERROR(Call(&pb::KvStore::Stub::ListSessions, pb::ListSessionsRequest(), &response));
  std::vector<SessionSummary> sessions;
  for (const pb::SessionInfo& info : response.sessions()) {
    sessions.push_back({info.name(), info.tokens(), info.bytes(), info.chunks(), info.chunks_durable(),
                        info.last_used_unix_s(), info.open(), info.pinned()});
  }
  return sessions;
}

absl::Status GrpcKvClient::DeleteSession(const std::string& name) {
  pb::DeleteSessionRequest request;
  request.set_name(name);
  pb::DeleteSessionResponse response;
  return Call(&pb::KvStore::Stub::DeleteSession, request, &response);
}

absl::Status GrpcKvClient::ForkSession(const std::string& from, const std::string& to) {
  pb::ForkSessionRequest request;
  request.set_from(from);
  request.set_to(to);
  pb::ForkSessionResponse response;
  return Call(&pb::KvStore::Stub::ForkSession, request, &response);
}

absl::Status GrpcKvClient::PinSession(const std::string& name, bool pinned) {
  pb::PinSessionRequest request;
  request.set_name(name);
  request.set_pinned(pinned);
  pb::PinSessionResponse response;
  return Call(&pb::KvStore::Stub::PinSession, request, &response);
}

absl::Status GrpcKvClient::GetSummaries(
    absl::Span<const ChunkHash> chunks,
    const std::function<void(const ChunkHash&, const std::string&, const std::string&)>& sink) {
  pb::GetSummariesRequest request;
  for (const ChunkHash& chunk : chunks) request.add_chunk_hashes(chunk.ToBytes());
  grpc::ClientContext context;
  SendRequestId(&context);
  ++rpcs_;
  const auto stream = stub_->GetSummaries(&context, request);
  types::v1::ChunkSummary summary;
  while (stream->Read(&summary)) {
    const auto hash = ChunkHash::FromBytes(summary.chunk_hash());
    if (!hash.ok()) {
      context.TryCancel();
      stream->Finish();
      return hash.status();
    }
    sink(*hash, summary.method(), summary.data());
  }
  return FromGrpc(stream->Finish());
}

absl::StatusOr<KvStoreStats> GrpcKvClient::GetStats() {
  pb::GetStatsResponse r;
  HGA_RETURN_IF_ERROR(Call(&pb::KvStore::Stub::GetStats, pb::GetStatsRequest(), &r));
  KvStoreStats s;
  s.slots_total = r.slots_total();
  s.slots_free = r.slots_free();
  s.slots_held = r.slots_held();
  s.slots_dirty = r.slots_dirty();
  s.sessions = r.sessions();
  s.chunks = r.chunks();
  s.chunks_durable = r.chunks_durable();
  s.disk_bytes = r.disk_bytes();
  s.evictions = r.evictions();
  return s;
}

absl::Status GrpcKvClient::Flush(bool drop_ram) {
  FlushReleases();
  pb::FlushRequest request;
  request.set_drop_ram(drop_ram);
  pb::FlushResponse response;
  return Call(&pb::KvStore::Stub::Flush, request, &response);
}

}  // namespace hga
