// Slots and blocks: what GrpcKvClient reserves, commits, fetches and gives back.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/status.h"
#include "kv_store/client/grpc_kv_client.h"

namespace hga {
namespace {

namespace pb = kv_store::v1;
constexpr std::chrono::milliseconds kMaxBackoff(1000);
constexpr std::chrono::milliseconds kExhaustedBackoff(20);
constexpr std::chrono::microseconds kGatherReleases(1000);
constexpr size_t kMaxFetch = 65536;

void AddName(const BlockName& name, pb::FetchRequest* request) {
  types::v1::BlockName* block = request->add_blocks();
  block->set_chunk_hash(name.chunk.ToBytes());
  block->set_layer(name.layer);
}

}  // namespace

// --- Releases ---

void GrpcKvClient::ReleaseLoop() {
  while (releases_->Wait(kGatherReleases)) FlushReleases();
}

void GrpcKvClient::FlushReleases() {
  std::lock_guard<std::mutex> flushing(flush_mu_);
  const auto attachment = Current();
  const uint64_t client_id = attachment.ok() ? (*attachment)->client_id : 0;
  std::vector<uint32_t> slots = releases_->Take(client_id);
  if (slots.empty()) return;
  if (const auto ring = (*attachment)->ring; ring != nullptr && FitsRing(slots.size(), 0)) {
    if (const auto turn = ring->TryBegin(); turn.owns_lock()) {
      const auto released = Exchange(ring.get(), {0, std::move(slots), {}});
      if (!released.ok()) LogWarning("release failed", {{"error", released.status().message()}});
      return;
    }
  }
  pb::ReleaseRequest request;
  request.set_client_id(client_id);
  request.mutable_slots()->Add(slots.begin(), slots.end());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallDeadline);
  pb::ReleaseResponse response;
  const grpc::Status status = stub_->Release(&context, request, &response);
  if (!status.ok()) LogWarning("release failed", {{"error", status.error_message()}});
}

// --- Blocks ---

absl::StatusOr<HeldBlock> GrpcKvClient::Take(const Attachment& attachment, uint32_t slot) {
  uint8_t* data = attachment.arena->Slot(slot);
  if (data == nullptr)
    return absl::InternalError(absl::StrCat("kv_store named slot ", slot, ", which is no slot"));
  return HeldBlock(data, slot, attachment.releaser);
}

absl::StatusOr<std::vector<HeldBlock>> GrpcKvClient::ReserveOnce(uint32_t count) {
  HGA_ASSIGN_OR_RETURN(const AttachmentPtr attachment, CurrentWithArena());
  pb::ReserveRequest request;
  request.set_client_id(attachment->client_id);
  request.set_slots(count);
  pb::ReserveResponse response;
  HGA_RETURN_IF_ERROR(Call(&pb::KvStore::Stub::Reserve, request, &response));
  std::vector<HeldBlock> blocks;
  for (uint32_t slot : response.slots()) {
    HGA_ASSIGN_OR_RETURN(HeldBlock block, Take(*attachment, slot));
    blocks.push_back(std::move(block));
  }
  if (blocks.size() != count)
    return absl::InternalError("kv_store granted another number of slots than asked");
  return blocks;
}

absl::StatusOr<std::vector<HeldBlock>> GrpcKvClient::Reserve(uint32_t count) {
  if (remote_ != nullptr) {
    HGA_RETURN_IF_ERROR(Current().status());
    auto blocks = remote_->Reserve(count);
    if (absl::IsResourceExhausted(blocks.status())) reclaim_ = std::max(reclaim_.load(), count);
    return blocks;
  }
  auto blocks = ReserveOnce(count);
  if (!absl::IsResourceExhausted(blocks.status())) return blocks;
  FlushReleases();
  std::this_thread::sleep_for(kExhaustedBackoff);
  return ReserveOnce(count);
}

pb::CommitRequest GrpcKvClient::CommitMessage(uint64_t client_id, const OpenedSession& session,
                                              CommitChunk* chunk) const {
  pb::CommitRequest request;
  request.set_client_id(client_id);
  request.set_session_id(session.session_id);
  request.set_epoch(session.epoch);
  request.set_chunk_hash(chunk->hash.ToBytes());
  request.set_parent_hash(chunk->parent.ToBytes());
  request.mutable_token_ids()->Add(chunk->token_ids.begin(), chunk->token_ids.end());
  for (const HeldBlock& block : chunk->blocks)
    request.add_checksums(BlockChecksum(block.data(), options_.geometry.block_bytes()));
  request.mutable_summary()->set_chunk_hash(chunk->hash.ToBytes());
  request.mutable_summary()->set_method(chunk->summary_method);
  request.mutable_summary()->set_data(std::move(chunk->summary));
  return request;
}

absl::StatusOr<std::vector<HeldBlock>> GrpcKvClient::Commit(const OpenedSession& session, CommitChunk chunk) {
  for (const HeldBlock& block : chunk.blocks) {
    if (!block) return absl::InvalidArgumentError("Commit: a block is missing");
  }
  if (remote_ != nullptr) return PutRemote(session, std::move(chunk));
  HGA_ASSIGN_OR_RETURN(const AttachmentPtr attachment, CurrentWithArena());
  for (const HeldBlock& block : chunk.blocks) {
    if (reinterpret_cast<uint8_t*>(block.data()) != attachment->arena->Slot(block.slot())) {
      return absl::FailedPreconditionError("a block was reserved before kv_store restarted; compute the chunk again");
    }
  }
  pb::CommitRequest request = CommitMessage(attachment->client_id, session, &chunk);
  for (const HeldBlock& block : chunk.blocks) request.add_slots(block.slot());
  pb::CommitResponse response;
  HGA_RETURN_IF_ERROR(Call(&pb::KvStore::Stub::Commit, request, &response));
  for (HeldBlock& block : chunk.blocks) block.Detach();  // the store has taken them over
  std::vector<HeldBlock> held;
  for (uint32_t slot : response.slots()) {
    HGA_ASSIGN_OR_RETURN(HeldBlock block, Take(*attachment, slot));
    held.push_back(std::move(block));
  }
  if (held.size() != chunk.blocks.size())
    return absl::InternalError("kv_store returned another number of slots");
  return held;
}

absl::Status GrpcKvClient::TakeFetched(const Attachment& attachment, const BlockName& name, absl::StatusCode code,
                                       uint32_t slot, bool from_disk, FetchedBlock* out) {
  out->found_in = from_disk ? FoundIn::kDisk : FoundIn::kRam;
  if (code == absl::StatusCode::kOk) {
    out->status = absl::OkStatus();
    HGA_ASSIGN_OR_RETURN(out->block, Take(attachment, slot));
  } else {
    out->status = absl::Status(code, absl::StrCat("chunk ", name.chunk.ToHex(), " layer ", name.layer));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<RingFetched>> GrpcKvClient::Exchange(FetchRing* ring, RingFetch request) {
  auto fetched = ring->Exchange(std::move(request), absl::FromChrono(kCallDeadline));
  // The stream ends with it. Not counted where it was the other way round.
  if (!fetched.ok() && ring->closed() && Current().ok()) ++rings_broken_;
  return fetched;
}

// What was given up goes along, so that it costs no message of its own.
absl::Status GrpcKvClient::FetchOverRing(const Attachment& attachment, absl::Span<const BlockHeads> blocks,
                                         const std::vector<size_t>& wanted, std::vector<FetchedBlock>* out) {
  RingFetch request;
  for (const size_t i : wanted) request.blocks.push_back(blocks[i]);
  request.releases = releases_->Take(attachment.client_id);
  if (!FitsRing(request.releases.size(), request.blocks.size())) {
    for (const uint32_t slot : std::exchange(request.releases, {})) releases_->Push({attachment.client_id, slot});
  }
  ++rpcs_;
  HGA_ASSIGN_OR_RETURN(const auto fetched, Exchange(attachment.ring.get(), std::move(request)));
  for (size_t i = 0; i < wanted.size(); ++i) {
    HGA_RETURN_IF_ERROR(TakeFetched(attachment, blocks[wanted[i]].name, fetched[i].code, fetched[i].slot,
                                    fetched[i].from_disk, &(*out)[wanted[i]]));
  }
  return absl::OkStatus();
}

// Fetches blocks[i] for each i in `wanted` into (*out)[i].
absl::Status GrpcKvClient::FetchInto(absl::Span<const BlockHeads> blocks, const std::vector<size_t>& wanted,
                                     std::vector<FetchedBlock>* out) {
  if (remote_ != nullptr) return FetchRemote(blocks, wanted, out);
  HGA_ASSIGN_OR_RETURN(const AttachmentPtr attachment, CurrentWithArena());
  if (attachment->ring != nullptr && FitsRing(0, wanted.size())) {
    if (const auto turn = attachment->ring->TryBegin(); turn.owns_lock()) {
      return FetchOverRing(*attachment, blocks, wanted, out);
    }
  }
  for (size_t begin = 0; begin < wanted.size(); begin += kMaxFetch) {
    const size_t end = std::min(wanted.size(), begin + kMaxFetch);
    pb::FetchRequest request;
    request.set_client_id(attachment->client_id);
    for (size_t i = begin; i < end; ++i) {
      AddName(blocks[wanted[i]].name, &request);
      request.add_heads(blocks[wanted[i]].heads);
    }
    pb::FetchResponse response;
    HGA_RETURN_IF_ERROR(Call(&pb::KvStore::Stub::Fetch, request, &response));
    if (static_cast<size_t>(response.results_size()) != end - begin) {
      return absl::InternalError("kv_store answered for another number of blocks");
    }
    for (size_t i = begin; i < end; ++i) {
      const pb::FetchResult& result = response.results(static_cast<int>(i - begin));
      HGA_RETURN_IF_ERROR(TakeFetched(*attachment, blocks[wanted[i]].name, static_cast<absl::StatusCode>(result.code()),
                                      result.slot(), result.tier() == pb::FetchResult::TIER_DISK, &(*out)[wanted[i]]));
    }
  }
  return absl::OkStatus();
}

absl::Status GrpcKvClient::FetchRemote(absl::Span<const BlockHeads> blocks, const std::vector<size_t>& wanted,
                                       std::vector<FetchedBlock>* out) {
  HGA_ASSIGN_OR_RETURN(const AttachmentPtr attachment, Current());
  uint32_t refused = 0;
  for (size_t begin = 0; begin < wanted.size(); begin += kMaxFetch) {
    pb::FetchRequest request;
    request.set_client_id(attachment->client_id);
    const size_t end = std::min(wanted.size(), begin + kMaxFetch);
    for (size_t i = begin; i < end; ++i) AddName(blocks[wanted[i]].name, &request);
    ++rpcs_;
    size_t at = begin;
    HGA_RETURN_IF_ERROR(remote_->Fetch(stub_.get(), request, [&](FetchedBlock block) {
      refused += absl::IsResourceExhausted(block.status);
      (*out)[wanted[at++]] = std::move(block);
    }));
  }
  if (refused > 0) reclaim_ = std::max(reclaim_.load(), refused);
  return absl::OkStatus();
}

// The caller keeps its memory; where the store had the chunk already, with the store's bytes in it.
absl::StatusOr<std::vector<HeldBlock>> GrpcKvClient::PutRemote(const OpenedSession& session, CommitChunk chunk) {
  HGA_ASSIGN_OR_RETURN(const AttachmentPtr attachment, Current());
  const pb::CommitRequest request = CommitMessage(attachment->client_id, session, &chunk);
  absl::StatusOr<bool> duplicate;
  for (auto backoff = kExhaustedBackoff;; backoff *= 2) {
    ++rpcs_;
    duplicate = remote_->Put(stub_.get(), request, chunk.blocks);
    if (!absl::IsResourceExhausted(duplicate.status()) || backoff > kMaxBackoff) break;
    std::this_thread::sleep_for(backoff);
  }
  HGA_RETURN_IF_ERROR(duplicate.status());
  if (!*duplicate) return std::move(chunk.blocks);
  pb::FetchRequest fetch;
  fetch.set_client_id(attachment->client_id);
  for (uint32_t layer = 0; layer < chunk.blocks.size(); ++layer) AddName({chunk.hash, layer}, &fetch);
  chunk.blocks.clear();
  absl::Status status;
  ++rpcs_;
  HGA_RETURN_IF_ERROR(remote_->Fetch(stub_.get(), fetch, [&](FetchedBlock block) {
    status.Update(block.status);
    chunk.blocks.push_back(std::move(block.block));
  }));
  HGA_RETURN_IF_ERROR(status);
  return std::move(chunk.blocks);
}

absl::StatusOr<std::vector<FetchedBlock>> GrpcKvClient::FetchHeads(absl::Span<const BlockHeads> blocks) {
  std::vector<FetchedBlock> fetched(blocks.size());
  std::vector<size_t> wanted(blocks.size());
  for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = i;
  HGA_RETURN_IF_ERROR(FetchInto(blocks, wanted, &fetched));
  wanted.clear();
  for (size_t i = 0; i < fetched.size(); ++i) {
    if (absl::IsResourceExhausted(fetched[i].status)) wanted.push_back(i);
  }
  if (wanted.empty()) return fetched;
  FlushReleases();
  std::this_thread::sleep_for(kExhaustedBackoff);
  HGA_RETURN_IF_ERROR(FetchInto(blocks, wanted, &fetched));
  return fetched;
}

}  // namespace hga
