#include "kv_store/store/block_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace hga {

void BlockStore::SetSlots(const KvGeometry& geometry, uint32_t slot_count, SlotMemory memory) {
  geometry_ = geometry;
  memory_ = std::move(memory);
  slots_ = SlotTable(slot_count);
  ghosts_ = GhostList(slot_count);
  if (options_.trace != nullptr) {
    options_.trace->Start({kTraceMagic, geometry.block_bytes(), geometry.layers, slot_count});
  }
  checksums_.assign(slot_count, 0);
}

void BlockStore::AddClient(ClientId client) { clients_[client]; }

void BlockStore::QuarantineClient(ClientId id) {
  const auto found = clients_.find(id);
  if (found == clients_.end() || !found->second.attached) return;
  found->second.attached = false;
  const std::vector<std::string> open(found->second.sessions.begin(), found->second.sessions.end());
  for (const std::string& session : open) Close(session);
}

void BlockStore::FreeClient(ClientId id) {
  const auto found = clients_.find(id);
  if (found == clients_.end()) return;
  QuarantineClient(id);
  for (uint32_t slot : found->second.reserved) slots_.Drop(slot);
  for (const auto& [slot, count] : found->second.holds) {
    for (uint32_t i = 0; i < count; ++i) {
      RecordRelease(slot);
      slots_.Unhold(slot);
    }
  }
  clients_.erase(found);
}

absl::StatusOr<BlockStore::Client*> BlockStore::FindClient(ClientId client) {
  const auto found = clients_.find(client);
  if (found != clients_.end() && found->second.attached) return &found->second;
  return absl::FailedPreconditionError(absl::StrCat("client ", client, " is not attached; attach again"));
}

Chunk* BlockStore::FindChunk(const ChunkHash& hash) const {
  const auto found = chunks_.find(hash);
  return found == chunks_.end() ? nullptr : found->get();
}

Chunk* BlockStore::FindWhole(const ChunkHash& hash) const {
  Chunk* chunk = FindChunk(hash);
  return chunk == nullptr || chunk->lost ? nullptr : chunk;
}

// --- References ---

void BlockStore::Pinned(const ChunkHash& hash, int change) {
  Chunk* chunk = FindChunk(hash);
  HGA_CHECK(chunk != nullptr);
  const bool before = chunk->pinned > 0;
  chunk->pinned += change;
  if (before == (chunk->pinned > 0)) return;
  chunks_pinned_ += before ? -1 : 1;
  Record(before ? TraceEvent::kUnpin : TraceEvent::kPin, hash);
  if (chunk->ram == nullptr) return;
  for (uint32_t slot : chunk->ram->slots) {
    if (slot != kNoSlot) slots_.SetPinned(slot, !before);
  }
}

ChunkInRam* BlockStore::RamOf(Chunk* chunk) {
  if (chunk->ram == nullptr) {
    chunk->ram = std::make_unique<ChunkInRam>();
    chunk->ram->slots.assign(geometry_.layers, kNoSlot);
  }
  return chunk->ram.get();
}

void BlockStore::ForgetRam(Chunk* chunk) {
  if (chunk->ram == nullptr || chunk->ram->resident > 0 || chunk->ram->record != nullptr) return;
  for (uint32_t slot : chunk->ram->slots) {
    if (slot != kNoSlot) return;
  }
  chunk->ram.reset();
}

void BlockStore::PlaceIn(uint32_t slot, Chunk* chunk, uint32_t layer, SlotState state) {
  slots_.Assign(slot, chunk, layer, state);
  slots_.SetPinned(slot, chunk->pinned > 0);
}

void BlockStore::AddRef(const ChunkHash& hash) {
  Chunk* chunk = FindChunk(hash);
  HGA_CHECK(chunk != nullptr);
  ++chunk->refs;
}

void BlockStore::Unref(const ChunkHash& hash) {
  Chunk* chunk = FindChunk(hash);
  HGA_CHECK(chunk != nullptr && chunk->refs > 0);
  if (--chunk->refs == 0) EraseChunk(chunk);
}

// Takes the chunk's blocks out of RAM; what the disk has of it stays.
void BlockStore::DropBlocks(Chunk* chunk) {
  if (chunk->durable) {
    --chunks_durable_;
  } else if (!chunk->lost) {
    --chunks_dirty_;
  }
  chunk->durable = chunk->writing = false;
  if (chunk->ram == nullptr) return;
  for (uint32_t& slot : chunk->ram->slots) {
    if (slot != kNoSlot && slots_.state(slot) != SlotState::kStaging) slots_.Drop(slot);
    slot = kNoSlot;  // a staging slot is freed when its read ends
  }
  chunk->ram->resident = 0;
  chunk->ram->summary.reset();
  const auto waiting = std::move(chunk->ram->on_durable);
  chunk->ram->on_durable.clear();
  for (const auto& done : waiting) done(absl::DataLossError("the chunk was dropped before it was durable"));
}

void BlockStore::EraseChunk(Chunk* chunk) {
  Record(TraceEvent::kErase, chunk->hash);
  if (chunk->durable || chunk->writing || chunk->recorded) to_delete_.insert(chunk->hash);
  to_drop_.erase(chunk->hash);
  DropBlocks(chunk);
  chunks_lost_ -= chunk->lost;
  chunks_.erase(chunks_.find(chunk->hash));
}

// Its blocks go, its token ids stay, on disk as well: to be computed again.
void BlockStore::LoseBlocks(Chunk* chunk) {
  const bool tokens_in_ram = chunk->ram != nullptr && chunk->ram->record != nullptr;
  DropBlocks(chunk);
  chunks_lost_ += !chunk->lost;
  chunk->lost = true;
  chunk->serial = next_serial_++;
  if (tokens_in_ram) {
    to_delete_.insert(chunk->hash);
    tokens_to_put_.insert(chunk->hash);
  } else {
    to_drop_.insert(chunk->hash);
  }
  ForgetRam(chunk);
}

void BlockStore::MarkLost(Chunk* chunk) {
  ++counters_.checksum_errors;
  LoseBlocks(chunk);
}

// --- Slots ---

void BlockStore::Evict(uint32_t slot) {
  Chunk* chunk = slots_.chunk(slot);
  chunk->ram->slots[slots_.layer(slot)] = kNoSlot;
  --chunk->ram->resident;
  slots_.Drop(slot);
  ForgetRam(chunk);
}

uint32_t BlockStore::TakeSlot(SlotState state) {
  uint32_t slot = slots_.TakeFree(state);
  if (slot != kNoSlot) return slot;
  const uint32_t victim = slots_.Victim();
  if (victim == kNoSlot) return kNoSlot;
  ghosts_.Add({slots_.chunk(victim)->hash, slots_.layer(victim)});
  Evict(victim);
  ++counters_.evictions;
  return slots_.TakeFree(state);
}

void BlockStore::Hold(Client* client, uint32_t slot) {
  slots_.Hold(slot);
  ++client->holds[slot];
}

void BlockStore::AskBack(uint32_t slots) { shortage_ = std::min(shortage_ + slots, slots_.count()); }

absl::Status BlockStore::Exhausted(uint32_t wanted) {
  AskBack(wanted);
  const std::string why =
      write_error_.ok() ? "" : absl::StrCat("; write-back is failing: ", std::string(write_error_.message()));
  return absl::ResourceExhaustedError(absl::StrCat("arena: ", wanted, " slots wanted, ", slots_.available(),
                                                   " available of ", slots_.count(), " (", slots_.held(),
                                                   " held, ", slots_.in_state(SlotState::kDirty),
                                                   " not durable yet), retry in 20 ms", why));
}

absl::StatusOr<std::vector<uint32_t>> BlockStore::Reserve(ClientId id, uint32_t count) {
  HGA_ASSIGN_OR_RETURN(Client * client, FindClient(id));
  if (count == 0 || count > kMaxReserve) {
    return absl::InvalidArgumentError(absl::StrCat("Reserve: 1 to ", kMaxReserve, " slots, not ", count));
  }
  if (chunks_dirty_ > options_.writeback_queue_chunks) {
    return absl::ResourceExhaustedError(absl::StrCat(
        chunks_dirty_, " chunks wait to be written to disk, retry in 50 ms",
        write_error_.ok() ? "" : "; write-back is failing: ", std::string(write_error_.message())));
  }
  if (slots_.available() < count) return Exhausted(count);
  std::vector<uint32_t> granted(count);
  for (uint32_t& slot : granted) {
    slot = TakeSlot(SlotState::kReserved);
    client->reserved.insert(slot);
  }
  return granted;
}

absl::Status BlockStore::Release(ClientId id, absl::Span<const uint32_t> slots) {
  HGA_ASSIGN_OR_RETURN(Client * client, FindClient(id));
  for (uint32_t slot : slots) {
    const auto held = client->holds.find(slot);
    if (held != client->holds.end()) {
      if (--held->second == 0) client->holds.erase(held);
      RecordRelease(slot);
      slots_.Unhold(slot);
    } else if (client->reserved.erase(slot) > 0) {
      slots_.Drop(slot);
    } else {
      ++counters_.unknown_releases;
    }
  }
  return absl::OkStatus();
}

// --- Commit ---

absl::Status BlockStore::CheckCommit(const Client& client, const CommitArgs& args) const {
  if (args.token_ids.size() != geometry_.chunk_tokens || args.slots.size() != geometry_.layers ||
      args.checksums.size() != geometry_.layers) {
    return absl::InvalidArgumentError(absl::StrCat("Commit: got ", args.token_ids.size(), " tokens, ",
                                                   args.slots.size(), " slots and ", args.checksums.size(),
                                                   " checksums, expected ", geometry_.chunk_tokens, ", ",
                                                   geometry_.layers, " and ", geometry_.layers));
  }
  if (NextChunkHash(args.parent, args.token_ids) != args.hash) {
    return absl::InvalidArgumentError(
        "Commit: the chunk hash does not follow from the parent and the token ids");
  }
  absl::flat_hash_set<uint32_t> seen;
  for (uint32_t slot : args.slots) {
    if (!client.reserved.contains(slot)) {
      return absl::InvalidArgumentError(
          absl::StrCat("Commit: slot ", slot, " is not reserved by this client"));
    }
    if (!seen.insert(slot).second) {
      return absl::InvalidArgumentError(absl::StrCat("Commit: slot ", slot, " is named twice"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CommitOutcome> BlockStore::Commit(ClientId id, CommitArgs args) {
  HGA_ASSIGN_OR_RETURN(Client * client, FindClient(id));
  HGA_RETURN_IF_ERROR(CheckCommit(*client, args));
  HGA_ASSIGN_OR_RETURN(Session * session, FindOpenSession(id, args.session_id, args.epoch));
  const ChunkHash hash = args.hash;
  if (Chunk* existing = FindWhole(hash); existing != nullptr) {
    Pin(session, hash);
    return AdoptDuplicate(client, existing, args);
  }
  Chunk* chunk = FindChunk(hash);  // one that is lost
  if (chunk == nullptr) {
    auto made = std::make_unique<Chunk>();
    made->hash = hash;
    chunk = chunks_.insert(std::move(made)).first->get();
  }
  Record(TraceEvent::kCommit, hash);
  CommitOutcome outcome{args.slots, /*duplicate=*/false};
  AdoptNew(client, chunk, std::move(args));
  Pin(session, hash);
  return outcome;
}

void BlockStore::AdoptNew(Client* client, Chunk* chunk, CommitArgs args) {
  chunk->parent = args.parent;
  chunk->serial = next_serial_++;
  chunks_lost_ -= chunk->lost;
  chunk->lost = false;
  ChunkInRam* ram = RamOf(chunk);
  ram->slots = args.slots;
  ram->resident = geometry_.layers;
  ChunkRecord record{args.hash, args.parent, std::move(args.token_ids), std::move(args.checksums)};
  ram->record = std::make_shared<const ChunkRecord>(std::move(record));
  ram->summary = std::make_shared<const SummaryRecord>(std::move(args.summary));
  for (uint32_t layer = 0; layer < geometry_.layers; ++layer) {
    const uint32_t slot = ram->slots[layer];
    client->reserved.erase(slot);
    checksums_[slot] = ram->record->checksums[layer];
    PlaceIn(slot, chunk, layer, SlotState::kDirty);
    Hold(client, slot);
  }
  tokens_to_put_.insert(chunk->hash);
  dirty_.emplace_back(chunk->hash, chunk->serial);
  ++chunks_dirty_;
}

// While only RAM has the chunk its blocks there stay and the caller's copies go. Once it is durable the caller's copies
// stay, which the caller may be reading, and the older ones go with their last hold.
CommitOutcome BlockStore::AdoptDuplicate(Client* client, Chunk* chunk, const CommitArgs& args) {
  Record(TraceEvent::kCommit, chunk->hash);
  CommitOutcome outcome{args.slots, /*duplicate=*/true};
  ChunkInRam* ram = RamOf(chunk);
  for (uint32_t layer = 0; layer < geometry_.layers; ++layer) {
    uint32_t& mine = ram->slots[layer];
    client->reserved.erase(args.slots[layer]);
    const bool in_ram = mine != kNoSlot && slots_.state(mine) != SlotState::kStaging;
    if (in_ram && !chunk->durable) {
      slots_.Drop(args.slots[layer]);
    } else {
      if (in_ram) slots_.Drop(mine);
      ram->resident += !in_ram;
      mine = args.slots[layer];
      checksums_[mine] = args.checksums[layer];
      PlaceIn(mine, chunk, layer, SlotState::kClean);
    }
    Hold(client, mine);
    outcome.slots[layer] = mine;
  }
  return outcome;
}

void BlockStore::WhenDurable(const ChunkHash& hash, std::function<void(absl::Status)> done) {
  Chunk* chunk = FindWhole(hash);
  if (chunk == nullptr) return done(absl::DataLossError("the chunk is gone"));
  if (chunk->durable) return done(absl::OkStatus());
  RamOf(chunk)->on_durable.push_back(std::move(done));
}

absl::StatusOr<std::shared_ptr<const SummaryRecord>> BlockStore::FindSummary(const ChunkHash& hash) const {
  const Chunk* chunk = FindWhole(hash);
  if (chunk == nullptr) return absl::NotFoundError("no such chunk");
  return chunk->ram == nullptr ? nullptr : chunk->ram->summary;
}

// --- Reclaim, statistics ---

std::vector<std::pair<ClientId, uint32_t>> BlockStore::TakeReclaims() {
  std::vector<std::pair<ClientId, uint32_t>> asks;
  if (shortage_ == 0) return asks;
  for (const auto& [id, client] : clients_) {
    const uint32_t holds = static_cast<uint32_t>(client.holds.size());
    if (client.attached && holds > 0) asks.emplace_back(id, std::min(holds, shortage_));
  }
  counters_.reclaims += asks.size();
  shortage_ = 0;
  return asks;
}

StoreStats BlockStore::stats() const {
  StoreStats s = counters_;
  for (int i = 0; i < kSlotStates; ++i) s.slots[i] = slots_.in_state(static_cast<SlotState>(i));
  s.slots_total = slots_.count();
  s.slots_held = slots_.held();
  s.sessions = sessions_.size();
  s.chunks = chunks_.size();
  s.chunks_durable = chunks_durable_;
  s.chunks_dirty = chunks_dirty_;
  for (const auto& [id, client] : clients_) ++(client.attached ? s.clients : s.clients_quarantined);
  return s;
}

}  // namespace hga
