// Blocks that clients read: found in RAM, read from the disk, checked on the way.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/store/block_store.h"

namespace hga {

absl::StatusOr<std::vector<DiskRead>> BlockStore::Fetch(ClientId id, const std::vector<BlockName>& names,
                                                        FetchDone done) {
  HGA_ASSIGN_OR_RETURN(Client * client, FindClient(id));
  if (names.size() > kMaxFetch) {
    return absl::InvalidArgumentError(
        absl::StrCat("Fetch: at most ", kMaxFetch, " blocks, not ", names.size()));
  }
  auto ticket = std::make_shared<FetchTicket>();
  ticket->client = id;
  ticket->results.resize(names.size());
  ticket->waiting = names.size() + 1;  // one for this call itself
  ticket->done = std::move(done);
  std::vector<size_t> absent;
  for (size_t i = 0; i < names.size(); ++i) {  // first hold all that is here, so that staging evicts none of it
    Chunk* chunk = FindWhole(names[i].chunk);
    if (chunk == nullptr || names[i].layer >= geometry_.layers) {
      ++counters_.misses;
      Settle({ticket, i}, absl::NotFoundError("no such block"), 0);
      continue;
    }
    Record(TraceEvent::kFetch, names[i].chunk, names[i].layer);
    const uint32_t slot = chunk->slot(names[i].layer);
    if (slot == kNoSlot || slots_.state(slot) == SlotState::kStaging) {
      absent.push_back(i);
      continue;
    }
    if (FailsSample(slot)) {
      DropDamaged(chunk, names[i].layer);
      absent.push_back(i);
      continue;
    }
    ++counters_.ram_hits;
    slots_.MarkReused(slot);
    Hold(client, slot);
    ticket->results[i].slot = slot;
    ticket->results[i].checksum = checksums_[slot];
    --ticket->waiting;
  }
  std::vector<DiskRead> reads;
  for (size_t i : absent) {
    Chunk* chunk = FindWhole(names[i].chunk);
    if (chunk == nullptr) {
      Settle({ticket, i}, absl::DataLossError(absl::StrCat("chunk ", names[i].chunk.ToHex(), ": damaged in RAM")), 0);
    } else {
      FetchFromDisk(chunk, names[i].layer, {ticket, i}, &reads);
    }
  }
  if (--ticket->waiting == 0) ticket->done(std::move(ticket->results));
  return reads;
}

void BlockStore::FetchFromDisk(Chunk* chunk, uint32_t layer, Waiter waiter, std::vector<DiskRead>* reads) {
  waiter.ticket->results[waiter.index].from_disk = true;
  uint32_t slot = chunk->slot(layer);
  if (slot == kNoSlot) {
    slot = TakeSlot(SlotState::kStaging);  // may evict this chunk's last block and so forget what is in RAM of it
    if (slot == kNoSlot) return Settle(waiter, Exhausted(1), 0);
    PlaceIn(slot, chunk, layer, SlotState::kStaging);
    if (ghosts_.Take({chunk->hash, layer})) slots_.MarkReused(slot);
    RamOf(chunk)->slots[layer] = slot;
    staging_[slot] = Staging{chunk->hash, chunk->serial, layer, {}};
    reads->push_back({slot, {chunk->hash, layer}});
  }
  staging_[slot].waiters.push_back(std::move(waiter));
}

// Whether the block in the slot is one that is looked at, and is not what it was.
bool BlockStore::FailsSample(uint32_t slot) {
  if (options_.verify_ram_every == 0 || ++ram_hits_unchecked_ < options_.verify_ram_every) return false;
  ram_hits_unchecked_ = 0;
  return IsDamaged(slot);
}

bool BlockStore::IsDamaged(uint32_t slot) const {
  return BlockChecksum(memory_(slot), geometry_.block_bytes()) != checksums_[slot];
}

void BlockStore::CheckBlock(const BlockName& name) {
  Chunk* chunk = FindWhole(name.chunk);
  if (chunk == nullptr || name.layer >= geometry_.layers) return;
  const uint32_t slot = chunk->slot(name.layer);
  if (slot == kNoSlot || slots_.state(slot) == SlotState::kStaging || !IsDamaged(slot)) return;
  DropDamaged(chunk, name.layer);
}

// A block in RAM is damaged: the disk's copy takes its place, or the chunk is lost.
void BlockStore::DropDamaged(Chunk* chunk, uint32_t layer) {
  ++counters_.ram_checksum_errors;
  LogError("a block is damaged in RAM", {{"chunk", chunk->hash.ToHex()}, {"layer", layer}});
  if (!chunk->durable) return MarkLost(chunk);
  slots_.Drop(std::exchange(chunk->ram->slots[layer], kNoSlot));
  --chunk->ram->resident;
  ForgetRam(chunk);
}

void BlockStore::FinishRead(uint32_t slot, const absl::Status& status, uint64_t checksum, bool from_ram) {
  auto node = staging_.extract(slot);
  HGA_CHECK(!node.empty());
  const Staging& staging = node.mapped();
  Chunk* chunk = FindWhole(staging.chunk);
  if (chunk != nullptr && chunk->serial != staging.serial) chunk = nullptr;
  uint32_t* place = chunk == nullptr ? nullptr : &RamOf(chunk)->slots[staging.layer];
  absl::Status result = status;
  if (place != nullptr && *place != slot && *place != kNoSlot) {  // a commit brought the block while it was read
    slots_.Drop(slot);
    const bool ready = slots_.state(*place) != SlotState::kStaging;
    result = ready ? absl::OkStatus() : absl::UnavailableError("the block is being read again; retry");
    slot = *place;
  } else if (place != nullptr && status.ok()) {
    *place = slot;
    checksums_[slot] = checksum;
    PlaceIn(slot, chunk, staging.layer, SlotState::kClean);
    ++chunk->ram->resident;
  } else {
    if (place != nullptr) *place = kNoSlot;
    slots_.Drop(slot);
    if (chunk == nullptr) result = absl::NotFoundError("the chunk was dropped");
    if (chunk != nullptr && (absl::IsDataLoss(status) || absl::IsNotFound(status))) {
      result = absl::DataLossError(absl::StrCat("chunk ", staging.chunk.ToHex(), ": ", status.message()));
      MarkLost(chunk);
    } else if (chunk != nullptr) {
      ForgetRam(chunk);
    }
  }
  for (const Waiter& waiter : staging.waiters) Settle(waiter, result, slot, from_ram);
}

void BlockStore::Settle(const Waiter& waiter, const absl::Status& status, uint32_t slot, bool from_ram) {
  FetchTicket& ticket = *waiter.ticket;
  FetchOutcome& result = ticket.results[waiter.index];
  result.status = status;
  if (status.ok()) {
    result.slot = slot;
    result.checksum = checksums_[slot];
    ++(from_ram ? counters_.packed_ram_hits : counters_.disk_hits);
    if (from_ram) result.from_disk = false;
    const auto client = FindClient(ticket.client);
    if (client.ok()) {
      Hold(*client, slot);
    } else {
      result.status = client.status();
    }
  }
  if (--ticket.waiting == 0) ticket.done(std::move(ticket.results));
}

}  // namespace hga
