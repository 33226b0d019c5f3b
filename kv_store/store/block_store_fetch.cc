// Blocks that clients read: found in RAM, read from the disk, checked on the way.
#include <algorithm>
#include <utility>

#include "absl/numeric/bits.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/store/block_store.h"

namespace hga {

// kAllHeads: the whole block, also where most of its heads are wanted: then it is one read as well, and stays in RAM.
absl::StatusOr<uint64_t> BlockStore::HeadsToRead(uint64_t wanted) const {
  if (wanted == kAllHeads || geometry_.kv_heads >= kMaskHeads) return kAllHeads;
  const uint64_t all = (uint64_t{1} << geometry_.kv_heads) - 1;
  if ((wanted & all) == 0) return absl::InvalidArgumentError("Fetch: no KV head of a block is asked for");
  const auto heads = static_cast<uint32_t>(absl::popcount(wanted & all));
  return 2 * heads > geometry_.kv_heads ? kAllHeads : wanted & all;
}

absl::StatusOr<std::vector<DiskRead>> BlockStore::Fetch(ClientId id, const std::vector<BlockHeads>& wanted,
                                                        FetchDone done) {
  HGA_ASSIGN_OR_RETURN(Client * client, FindClient(id));
  if (wanted.size() > kMaxFetch) {
    return absl::InvalidArgumentError(
        absl::StrCat("Fetch: at most ", kMaxFetch, " blocks, not ", wanted.size()));
  }
  std::vector<uint64_t> heads;
  for (const BlockHeads& block : wanted) {
    HGA_ASSIGN_OR_RETURN(const uint64_t to_read, HeadsToRead(block.heads));
    heads.push_back(to_read);
  }
  auto ticket = std::make_shared<FetchTicket>();
  ticket->client = id;
  ticket->results.resize(wanted.size());
  ticket->waiting = wanted.size() + 1;  // one for this call itself
  ticket->done = std::move(done);
  std::vector<size_t> absent;
  for (size_t i = 0; i < wanted.size(); ++i) {  // first hold all that is here, so that staging evicts none of it
    const BlockName& name = wanted[i].name;
    Chunk* chunk = FindWhole(name.chunk);
    if (chunk == nullptr || name.layer >= geometry_.layers) {
      ++counters_.misses;
      Settle({ticket, i}, absl::NotFoundError("no such block"), 0);
      continue;
    }
    Record(TraceEvent::kFetch, name.chunk, name.layer);
    const uint32_t slot = chunk->slot(name.layer);
    if (slot == kNoSlot || slots_.state(slot) == SlotState::kStaging) {
      absent.push_back(i);
      continue;
    }
    if (FailsSample(slot)) {
      DropDamaged(chunk, name.layer);
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
    const BlockName& name = wanted[i].name;
    Chunk* chunk = FindWhole(name.chunk);
    if (chunk == nullptr) {
      Settle({ticket, i}, absl::DataLossError(absl::StrCat("chunk ", name.chunk.ToHex(), ": damaged in RAM")), 0);
    } else {
      FetchFromDisk(chunk, name.layer, heads[i], {ticket, i}, &reads);
    }
  }
  if (--ticket->waiting == 0) ticket->done(std::move(ticket->results));
  return reads;
}

void BlockStore::FetchFromDisk(Chunk* chunk, uint32_t layer, uint64_t heads, Waiter waiter,
                               std::vector<DiskRead>* reads) {
  waiter.ticket->results[waiter.index].from_disk = true;
  uint32_t slot = chunk->slot(layer);
  if (slot == kNoSlot) {
    slot = TakeSlot(SlotState::kStaging);  // may evict this chunk's last block and so forget what is in RAM of it
    if (slot == kNoSlot) return Settle(waiter, Exhausted(1), 0);
    if (heads == kAllHeads) {
      PlaceIn(slot, chunk, layer, SlotState::kStaging);
      if (ghosts_.Take({chunk->hash, layer})) slots_.MarkReused(slot);
      RamOf(chunk)->slots[layer] = slot;
    }
    staging_[slot] = Staging{chunk->hash, chunk->serial, layer, heads, {}};
    reads->push_back({slot, {chunk->hash, layer}, heads});
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
  if (staging.heads != kAllHeads) return FinishHeads(slot, staging, status, from_ram);
  Chunk* chunk = FindStaged(staging);
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
    result = FailRead(chunk, status);
  }
  for (const Waiter& waiter : staging.waiters) Settle(waiter, result, slot, from_ram);
}

// What was read is for who asked: free with its hold.
void BlockStore::FinishHeads(uint32_t slot, const Staging& staging, const absl::Status& status, bool from_ram) {
  Chunk* chunk = FindStaged(staging);
  const absl::Status result = chunk != nullptr && status.ok() ? status : FailRead(chunk, status);
  checksums_[slot] = 0;
  for (const Waiter& waiter : staging.waiters) Settle(waiter, result, slot, from_ram);
  slots_.Drop(slot);
}

// nullptr: its content has changed since.
Chunk* BlockStore::FindStaged(const Staging& staging) const {
  Chunk* chunk = FindWhole(staging.chunk);
  return chunk != nullptr && chunk->serial == staging.serial ? chunk : nullptr;
}

// What the waiters are told of a read that brought nothing.
absl::Status BlockStore::FailRead(Chunk* chunk, const absl::Status& status) {
  if (chunk == nullptr) return absl::NotFoundError("the chunk was dropped");
  if (!absl::IsDataLoss(status) && !absl::IsNotFound(status)) {
    ForgetRam(chunk);
    return status;
  }
  const absl::Status lost = absl::DataLossError(absl::StrCat("chunk ", chunk->hash.ToHex(), ": ", status.message()));
  MarkLost(chunk);
  return lost;
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
