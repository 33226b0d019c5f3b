#include "kv_store/store/slot_table.h"

#include "common/base/check.h"

namespace hga {

SlotTable::SlotTable(uint32_t count) : slots_(count) {
  free_.reserve(count);
  for (uint32_t slot = count; slot-- > 0;) free_.push_back(slot);
  by_state_[static_cast<int>(SlotState::kFree)] = count;
}

uint32_t SlotTable::TakeFree(SlotState state) {
  if (free_.empty()) return kNoSlot;
  const uint32_t slot = free_.back();
  free_.pop_back();
  SetState(slot, state);
  return slot;
}

uint32_t SlotTable::Victim() const {
  for (const List list : {kProbation, kProtected, kPinned}) {
    if (lists_[list].size > 0) return lists_[list].oldest;
  }
  return kNoSlot;
}

void SlotTable::Assign(uint32_t slot, Chunk* chunk, uint32_t layer, SlotState state) {
  slots_[slot].chunk = chunk;
  slots_[slot].layer = layer;
  SetState(slot, state);
}

void SlotTable::SetState(uint32_t slot, SlotState state) {
  Slot& s = slots_[slot];
  --by_state_[static_cast<int>(s.state)];
  ++by_state_[static_cast<int>(state)];
  s.state = state;
  Place(slot);
}

void SlotTable::Hold(uint32_t slot) {
  if (slots_[slot].holds++ == 0) ++held_;
  Place(slot);
}

void SlotTable::Unhold(uint32_t slot) {
  Slot& s = slots_[slot];
  HGA_CHECK(s.holds > 0);
  if (--s.holds > 0) return;
  --held_;
  if (s.state == SlotState::kOrphan) {
    Free(slot);
  } else {
    Place(slot);
  }
}

void SlotTable::Drop(uint32_t slot) {
  slots_[slot].chunk = nullptr;
  if (slots_[slot].holds > 0) {
    SetState(slot, SlotState::kOrphan);
  } else {
    Free(slot);
  }
}

void SlotTable::Free(uint32_t slot) {
  HGA_CHECK(slots_[slot].holds == 0 && slots_[slot].state != SlotState::kFree);
  slots_[slot].chunk = nullptr;
  slots_[slot].reused = slots_[slot].pinned = false;
  SetState(slot, SlotState::kFree);
  free_.push_back(slot);
}

void SlotTable::Place(uint32_t slot) {
  Slot& s = slots_[slot];
  Unlink(slot);
  if (s.state != SlotState::kClean || s.holds > 0) return;
  Append(slot, s.pinned ? kPinned : s.reused ? kProtected : kProbation);
  // What a list has no room for gets a second chance on the next one.
  Trim(kPinned, slots_.size() / 2);
  Trim(kProtected, slots_.size() - slots_.size() / 4);
}

void SlotTable::Trim(List list, uint64_t limit) {
  if (lists_[list].size <= limit) return;
  const uint32_t demoted = lists_[list].oldest;
  Unlink(demoted);
  Slot& s = slots_[demoted];
  s.reused = list == kPinned;
  s.pinned = false;
  Append(demoted, s.reused ? kProtected : kProbation);
}

void SlotTable::SetPinned(uint32_t slot, bool pinned) {
  if (slots_[slot].pinned == pinned) return;
  slots_[slot].pinned = pinned;
  Place(slot);
}

void SlotTable::Append(uint32_t slot, List list) {
  Slot& s = slots_[slot];
  ListHead& head = lists_[list];
  s.list = list;
  s.prev = head.newest;
  s.next = kNoSlot;
  (head.newest == kNoSlot ? head.oldest : slots_[head.newest].next) = slot;
  head.newest = slot;
  ++head.size;
}

void SlotTable::Unlink(uint32_t slot) {
  Slot& s = slots_[slot];
  if (s.list == kNone) return;
  ListHead& head = lists_[s.list];
  (s.prev == kNoSlot ? head.oldest : slots_[s.prev].next) = s.next;
  (s.next == kNoSlot ? head.newest : slots_[s.next].prev) = s.prev;
  --head.size;
  s.list = kNone;
}

}  // namespace hga
