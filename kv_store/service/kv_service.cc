#include "kv_store/service/kv_service.h"

#include <chrono>
#include <future>
#include <utility>
#include <vector>

#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/status.h"
#include "kv_store/ring/ring_file.h"
#include "kv_store/service/block_bytes.h"
#include "kv_store/service/convert.h"

namespace hga {
namespace {

namespace pb = kv_store::v1;
constexpr std::chrono::milliseconds kCancelPoll(20);  // how soon a client that died is noticed
constexpr std::chrono::seconds kFlushTimeout(60);
constexpr std::chrono::milliseconds kCompactReport(200);  // how often who asked for it hears of it
constexpr uint32_t kReclaimDeadlineMs = 50;
constexpr int kMaxRings = 64;  // each has a thread

// Calls `use` with the value, or returns the error.
template <typename T, typename F>
grpc::Status Finish(absl::StatusOr<T> result, F&& use) {
  if (result.ok()) use(*std::move(result));
  return ToGrpc(result.status());
}

pb::AttachEvent AttachedEvent(const AttachedClient& client, const FetchRingServer* ring) {
  pb::AttachEvent event;
  pb::Attached* attached = event.mutable_attached();
  attached->set_client_id(client.id);
  attached->set_arena_path(client.arena_path);
  attached->set_generation(client.shape.generation);
  attached->set_slot_bytes(client.shape.slot_bytes);
  attached->set_slot_count(client.shape.slot_count);
  attached->set_lock_byte(client.lock_byte);
  if (ring != nullptr) attached->set_ring_path(ring->path());
  return event;
}

pb::CompactProgress ProgressOf(const Compaction& compaction, const TierStats& disk) {
  pb::CompactProgress progress;
  progress.set_disk_bytes(disk.disk_bytes);
  progress.set_garbage_bytes(disk.garbage_bytes);
  progress.set_done_bytes(compaction.done_bytes);
  progress.set_all_bytes(compaction.all_bytes);
  return progress;
}

}  // namespace

std::unique_ptr<FetchRingServer> KvService::StartRing(const AttachedClient& client) {
  if (!client.has_arena) return nullptr;
  absl::Status refused = absl::ResourceExhaustedError("too many rings");
  if (++rings_ <= kMaxRings) {
    auto ring = FetchRingServer::Start(RingPath(client.arena_path, client.id), client.id, loop_);
    if (ring.ok()) return *std::move(ring);
    refused = ring.status();
  }
  --rings_;
  LogWarning("no ring for a client", {{"client", client.id}, {"error", refused.message()}});
  return nullptr;
}

grpc::Status KvService::Attach(Context* context, const pb::AttachRequest* request,
                               grpc::ServerWriter<pb::AttachEvent>* stream) {
  const auto client = loop_->Attach(request->client_name(), FromProto(request->geometry()),
                                    /*map_arena=*/!request->blocks_as_bytes());
  if (!client.ok()) return ToGrpc(client.status());
  std::unique_ptr<FetchRingServer> ring = request->fetch_ring() ? StartRing(*client) : nullptr;
  bool alive = stream->Write(AttachedEvent(*client, ring.get()));
  while (alive && !context->IsCancelled() && !client->mailbox->closed() && !(ring != nullptr && ring->closed())) {
    const uint32_t slots = client->mailbox->Take(kCancelPoll);
    if (slots == 0) continue;
    pb::AttachEvent event;
    event.mutable_reclaim()->set_slots(slots);
    event.mutable_reclaim()->set_deadline_ms(kReclaimDeadlineMs);
    alive = stream->Write(event);
  }
  // First its holds: an exchange under way may wait for the disk, and gets none any more.
  loop_->Detach(client->id);
  const bool ring_closed = ring != nullptr && ring->closed();
  if (ring != nullptr) --rings_;
  ring.reset();
  if (client->mailbox->closed()) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the store is shutting down");
  if (ring_closed && !context->IsCancelled()) {
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the ring was closed; attach again");
  }
  return grpc::Status::CANCELLED;  // the client has gone
}

grpc::Status KvService::OpenSession(Context*, const pb::OpenSessionRequest* request,
                                    pb::OpenSessionResponse* response) {
  const auto model = ModelFingerprint::FromBytes(request->model_fingerprint());
  if (!model.ok()) return ToGrpc(model.status());
  const auto chunks = FromProto(request->chunk_hashes());
  if (!chunks.ok()) return ToGrpc(chunks.status());
  return Finish(loop_->OpenSession(request->client_id(), request->name(), *model, *chunks),
                [&](const OpenOutcome& opened) {
                  response->set_epoch(opened.epoch);
                  response->set_matched_chunks(opened.matched);
                  response->set_matched_in_ram(opened.matched_in_ram);
                  response->set_session_id(opened.session_id);
                });
}

grpc::Status KvService::UpdateSession(Context*, const pb::UpdateSessionRequest* request,
                                      pb::UpdateSessionResponse*) {
  auto chunks = FromProto(request->chunk_hashes());
  if (!chunks.ok()) return ToGrpc(chunks.status());
  return ToGrpc(loop_->UpdateSession(request->client_id(), request->session_id(), request->epoch(),
                                     *std::move(chunks),
                                     {request->tail_tokens().begin(), request->tail_tokens().end()}));
}

grpc::Status KvService::CloseSession(Context*, const pb::CloseSessionRequest* request,
                                     pb::CloseSessionResponse*) {
  return ToGrpc(loop_->CloseSession(request->client_id(), request->session_id(), request->epoch()));
}

grpc::Status KvService::GetSession(Context*, const pb::GetSessionRequest* request,
                                   pb::GetSessionResponse* response) {
  return Finish(loop_->GetSession(request->name()), [&](const StoredTokens& stored) {
    response->mutable_token_ids()->Add(stored.token_ids.begin(), stored.token_ids.end());
    response->set_model_fingerprint(stored.model.ToBytes());
  });
}

grpc::Status KvService::ListSessions(Context*, const pb::ListSessionsRequest*,
                                     pb::ListSessionsResponse* response) {
  for (const SessionView& view : loop_->ListSessions()) {
    pb::SessionInfo* info = response->add_sessions();
    info->set_name(view.name);
    info->set_tokens(view.tokens);
    info->set_chunks(view.chunks);
    info->set_chunks_durable(view.chunks_durable);
    info->set_bytes(view.bytes);
    info->set_last_used_unix_s(view.last_used_unix_s);
    info->set_open(view.open);
    info->set_pinned(view.pinned);
  }
  return grpc::Status::OK;
}

grpc::Status KvService::DeleteSession(Context*, const pb::DeleteSessionRequest* request,
                                      pb::DeleteSessionResponse*) {
  return ToGrpc(loop_->DeleteSession(request->name()));
}

grpc::Status KvService::ForkSession(Context*, const pb::ForkSessionRequest* request, pb::ForkSessionResponse*) {
  return ToGrpc(loop_->ForkSession(request->from(), request->to()));
}

grpc::Status KvService::PinSession(Context*, const pb::PinSessionRequest* request, pb::PinSessionResponse*) {
  return ToGrpc(loop_->PinSession(request->name(), request->pinned()));
}

grpc::Status KvService::Reserve(Context*, const pb::ReserveRequest* request, pb::ReserveResponse* response) {
  return Finish(loop_->Reserve(request->client_id(), request->slots()),
                [&](const std::vector<uint32_t>& slots) {
                  response->mutable_slots()->Add(slots.begin(), slots.end());
                });
}

grpc::Status KvService::Commit(Context*, const pb::CommitRequest* request, pb::CommitResponse* response) {
  pb::CommitRequest copy = *request;
  auto args = FromProto(&copy);
  if (!args.ok()) return ToGrpc(args.status());
  return Finish(loop_->Commit(request->client_id(), *std::move(args)), [&](const CommitOutcome& outcome) {
    response->mutable_slots()->Add(outcome.slots.begin(), outcome.slots.end());
    response->set_duplicate(outcome.duplicate);
  });
}

grpc::Status KvService::Fetch(Context*, const pb::FetchRequest* request, pb::FetchResponse* response) {
  if (static_cast<uint32_t>(request->blocks_size()) > kMaxFetch) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "Fetch: too many blocks in one call");
  }
  const auto wanted = FromProto(*request);
  if (!wanted.ok()) return ToGrpc(wanted.status());
  return Finish(loop_->Fetch(request->client_id(), *wanted), [&](const std::vector<FetchOutcome>& outcomes) {
    for (const FetchOutcome& outcome : outcomes) {
      pb::FetchResult* result = response->add_results();
      result->set_code(static_cast<int>(outcome.status.code()));
      result->set_slot(outcome.slot);
      result->set_tier(outcome.from_disk ? pb::FetchResult::TIER_DISK : pb::FetchResult::TIER_RAM);
    }
  });
}

grpc::Status KvService::FetchBlocks(Context* context, const pb::FetchRequest* request,
                                    grpc::ServerWriter<pb::FetchedBytes>* stream) {
  if (static_cast<uint32_t>(request->blocks_size()) > kMaxFetch) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "FetchBlocks: too many blocks in one call");
  }
  const auto names = FromProto(request->blocks());
  if (!names.ok()) return ToGrpc(names.status());
  return ToGrpc(SendBlocks(loop_, request->client_id(), *names, [&](const pb::FetchedBytes& block) {
    return !context->IsCancelled() && stream->Write(block);
  }));
}

grpc::Status KvService::PutBlocks(Context*, grpc::ServerReader<pb::PutBlocksRequest>* stream,
                                  pb::CommitResponse* response) {
  return Finish(ReceiveBlocks(loop_, [&](pb::PutBlocksRequest* part) { return stream->Read(part); }),
                [&](const CommitOutcome& outcome) { response->set_duplicate(outcome.duplicate); });
}

grpc::Status KvService::Release(Context*, const pb::ReleaseRequest* request, pb::ReleaseResponse*) {
  return ToGrpc(loop_->Release(request->client_id(), {request->slots().begin(), request->slots().end()}));
}

grpc::Status KvService::GetSummaries(Context* context, const pb::GetSummariesRequest* request,
                                     grpc::ServerWriter<types::v1::ChunkSummary>* stream) {
  const auto chunks = FromProto(request->chunk_hashes());
  if (!chunks.ok()) return ToGrpc(chunks.status());
  for (const ChunkHash& chunk : *chunks) {
    auto summary = loop_->GetSummary(chunk);
    if (absl::IsNotFound(summary.status())) return grpc::Status::OK;
    if (!summary.ok()) return ToGrpc(summary.status());
    types::v1::ChunkSummary message;
    message.set_chunk_hash(chunk.ToBytes());
    message.set_method(std::move(summary->method));
    message.set_data(std::move(summary->data));
    if (context->IsCancelled() || !stream->Write(message)) break;
  }
  return grpc::Status::OK;
}

grpc::Status KvService::GetStats(Context*, const pb::GetStatsRequest*, pb::GetStatsResponse* response) {
  ToProto(loop_->GetStats(), loop_->DiskStats().disk_bytes, response);
  return grpc::Status::OK;
}

grpc::Status KvService::Flush(Context*, const pb::FlushRequest* request, pb::FlushResponse* response) {
  return Finish(loop_->Flush(request->drop_ram(), kFlushTimeout),
                [&](uint64_t dropped) { response->set_blocks_dropped(dropped); });
}

grpc::Status KvService::Compact(Context* context, const pb::CompactRequest*,
                                grpc::ServerWriter<pb::CompactProgress>* stream) {
  Compaction compaction;
  bool alive = stream->Write(ProgressOf(compaction, loop_->DiskStats()));
  auto finished = std::async(std::launch::async, [&] { return loop_->Compact(&compaction); });
  while (finished.wait_for(kCompactReport) != std::future_status::ready) {
    alive = alive && !context->IsCancelled() && stream->Write(ProgressOf(compaction, loop_->DiskStats()));
    if (!alive) compaction.cancelled = true;
  }
  const absl::Status status = finished.get();
  if (status.ok()) stream->Write(ProgressOf(compaction, loop_->DiskStats()));
  return ToGrpc(status);
}

}  // namespace hga
