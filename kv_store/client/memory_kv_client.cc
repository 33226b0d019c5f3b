// Slots and blocks of MemoryKvClient, and what tests do to it. Its sessions: memory_kv_sessions.cc.
#include "kv_store/client/memory_kv_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kv_store/client/memory_kv_state.h"

namespace hga {

MemoryKvClient::MemoryKvClient(const KvGeometry& geometry, uint32_t slot_limit)
    : state_(std::make_shared<State>(geometry, slot_limit)),
      releaser_(std::make_shared<const HeldBlock::Releaser>(
          [state = state_](uint32_t slot) { state->Release(slot); })) {}

MemoryKvClient::~MemoryKvClient() = default;

absl::StatusOr<std::vector<HeldBlock>> MemoryKvClient::Reserve(uint32_t count) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  if (count == 0 || count > 4096) return absl::InvalidArgumentError("Reserve: 1 to 4096 slots");
  if (!state_->RoomFor(count)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(count, " slots wanted, ", state_->in_use, " in use of ", state_->slot_limit));
  }
  std::vector<HeldBlock> blocks;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t number = state_->next_slot++;
    State::Slot& slot = state_->slots[number];
    slot.data.resize(state_->geometry.block_bytes());
    slot.reserved = true;
    state_->Hold(number);
    blocks.emplace_back(slot.data.data(), number, releaser_);
  }
  return blocks;
}

absl::StatusOr<std::vector<HeldBlock>> MemoryKvClient::Commit(const OpenedSession& opened, CommitChunk in) {
  // `in` dies after the lock is given up: its holds release through the same lock.
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_ASSIGN_OR_RETURN(State::Session * session, state_->Open(opened));
  const KvGeometry& g = state_->geometry;
  if (in.token_ids.size() != g.chunk_tokens || in.blocks.size() != g.layers) {
    return absl::InvalidArgumentError("Commit: needs chunk_tokens token ids and one block per layer");
  }
  if (NextChunkHash(in.parent, in.token_ids) != in.hash) {
    return absl::InvalidArgumentError(
        "Commit: the chunk hash does not follow from the parent and the token ids");
  }
  for (const HeldBlock& block : in.blocks) {
    const auto slot = state_->slots.find(block.slot());
    if (!block || slot == state_->slots.end() || !slot->second.reserved) {
      return absl::InvalidArgumentError("Commit: a block is not reserved");
    }
  }
  State::Chunk& chunk = state_->chunks[in.hash];
  for (const uint32_t older : std::exchange(chunk.slots, {})) state_->Orphan(older);
  chunk.parent = in.parent;
  chunk.token_ids = in.token_ids;
  chunk.method = in.summary_method;
  chunk.summary = in.summary;
  chunk.damaged = false;
  for (const HeldBlock& block : in.blocks) {
    state_->slots[block.slot()].reserved = false;
    chunk.slots.push_back(block.slot());
  }
  state_->Pin(session, in.hash);
  return std::move(in.blocks);
}

absl::StatusOr<std::vector<FetchedBlock>> MemoryKvClient::FetchHeads(absl::Span<const BlockHeads> wanted) {
  std::shared_ptr<const std::function<void(absl::Span<const BlockHeads>)>> before;
  {
    std::lock_guard<std::mutex> lock(state_->mu);
    before = state_->before_fetch;
  }
  if (before != nullptr) (*before)(wanted);
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  std::vector<FetchedBlock> out(wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const BlockName& name = wanted[i].name;
    const State::Chunk* chunk = state_->Whole(name.chunk);
    if (chunk == nullptr || name.layer >= state_->geometry.layers) {
      out[i].status = absl::NotFoundError("no such block");
      continue;
    }
    if (chunk->damaged) {
      out[i].status = absl::DataLossError("the chunk has a bad checksum");
      State::Chunk& lost = state_->chunks[name.chunk];
      for (uint32_t slot : lost.slots) state_->Orphan(slot);
      lost.slots.clear();
      continue;
    }
    uint32_t number = chunk->slots[name.layer];
    State::Slot& slot = state_->slots[number];
    if (slot.holds == 0 && !state_->RoomFor(1)) {
      out[i].status = absl::ResourceExhaustedError("every slot is held");
      continue;
    }
    out[i].found_in = slot.dropped ? FoundIn::kDisk : FoundIn::kRam;
    if (slot.holds == 0 && wanted[i].heads != kAllHeads) {
      number = state_->CopyHeads(slot, wanted[i].heads);
    } else {
      slot.dropped = false;
    }
    state_->Hold(number);
    out[i].block = HeldBlock(state_->slots[number].data.data(), number, releaser_);
  }
  return out;
}

absl::Status MemoryKvClient::GetSummaries(
    absl::Span<const ChunkHash> chunks,
    const std::function<void(const ChunkHash&, const std::string&, const std::string&)>& sink) {
  std::vector<std::pair<ChunkHash, State::Chunk>> found;
  {
    std::lock_guard<std::mutex> lock(state_->mu);
    HGA_RETURN_IF_ERROR(state_->Enter());
    for (const ChunkHash& hash : chunks) {
      const State::Chunk* chunk = state_->Whole(hash);
      if (chunk == nullptr) break;
      found.emplace_back(hash, *chunk);
    }
  }
  for (const auto& [hash, chunk] : found) sink(hash, chunk.method, chunk.summary);
  return absl::OkStatus();
}

absl::StatusOr<KvStoreStats> MemoryKvClient::GetStats() {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  KvStoreStats stats;
  stats.slots_total = state_->slot_limit;
  stats.slots_held = state_->in_use;
  stats.slots_free = state_->slot_limit > state_->in_use ? state_->slot_limit - state_->in_use : 0;
  stats.sessions = state_->sessions.size();
  stats.chunks = stats.chunks_durable = state_->chunks.size();
  return stats;
}

uint32_t MemoryKvClient::TakeReclaim() {
  std::lock_guard<std::mutex> lock(state_->mu);
  return std::exchange(state_->reclaim, 0);
}

uint64_t MemoryKvClient::rpc_count() const {
  std::lock_guard<std::mutex> lock(state_->mu);
  return state_->rpcs;
}

bool MemoryKvClient::connected() const {
  std::lock_guard<std::mutex> lock(state_->mu);
  return state_->is_connected;
}

void MemoryKvClient::DropRam() {
  std::lock_guard<std::mutex> lock(state_->mu);
  for (auto& [number, slot] : state_->slots) {
    if (slot.holds > 0) continue;
    std::vector<uint8_t> elsewhere(slot.data);
    slot.data.swap(elsewhere);
    slot.dropped = true;
  }
}

void MemoryKvClient::FailNext(absl::Status status) {
  std::lock_guard<std::mutex> lock(state_->mu);
  state_->failures.push_back(std::move(status));
}

void MemoryKvClient::DamageChunk(const ChunkHash& hash) {
  std::lock_guard<std::mutex> lock(state_->mu);
  const auto chunk = state_->chunks.find(hash);
  if (chunk != state_->chunks.end()) chunk->second.damaged = true;
}

void MemoryKvClient::BeforeFetch(std::function<void(absl::Span<const BlockHeads>)> hook) {
  std::lock_guard<std::mutex> lock(state_->mu);
  state_->before_fetch = nullptr;
  if (hook) state_->before_fetch = std::make_shared<const decltype(hook)>(std::move(hook));
}

void MemoryKvClient::SetConnected(bool connected) {
  std::lock_guard<std::mutex> lock(state_->mu);
  state_->is_connected = connected;
  if (connected) return;
  std::vector<std::string> open;
  for (const auto& [id, session] : state_->sessions) {
    if (session.open) open.push_back(id);
  }
  for (const std::string& id : open) state_->Close(id);
}

void MemoryKvClient::SetReclaim(uint32_t slots) {
  std::lock_guard<std::mutex> lock(state_->mu);
  state_->reclaim = slots;
}

}  // namespace hga
