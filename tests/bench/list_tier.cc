#include "tests/bench/list_tier.h"

namespace hga {

ListTier::ListTier(const ListTierOptions& options) : options_(options), slots_(options.slots) {}

uint32_t ListTier::FindBlock(const BlockName& name) {
  if (last_block_ != kNoSlot && last_name_ == name) return last_block_;
  const auto [found, is_new] = table_.try_emplace(name, 0);
  if (is_new) {
    if (free_blocks_.empty()) {
      free_blocks_.push_back(static_cast<uint32_t>(blocks_.size()));
      blocks_.emplace_back();
      units_.resize(units_.size() + options_.units_per_block, kNoSlot);
    }
    found->second = free_blocks_.back();
    free_blocks_.pop_back();
    blocks_[found->second].name = name;
  }
  last_name_ = name;
  return last_block_ = found->second;
}

ListTier::Place ListTier::Use(const BlockName& name, uint32_t unit, uint64_t batch) {
  if (slots_.empty()) return {};
  const uint32_t block = FindBlock(name);
  Place place{SlotOf(block, unit), true};
  if (place.slot == kNoSlot) {
    ++blocks_[block].units;  // so that it stays while room is made
    place = {TakeSlot(batch), false};
    --blocks_[block].units;
    if (place.slot == kNoSlot) {
      if (blocks_[block].units == 0) {
        table_.erase(name);
        free_blocks_.push_back(block);
        last_block_ = kNoSlot;
      }
      return place;
    }
    ++blocks_[block].units;
    SlotOf(block, unit) = place.slot;
    slots_[place.slot].block = block;
    slots_[place.slot].unit = unit;
    slots_[place.slot].used_again = false;
    PushNewest(place.slot);
  } else {
    slots_[place.slot].used_again = true;
    if (options_.policy == TierPolicy::kLru || options_.policy == TierPolicy::kLruByStep) {
      Unlink(place.slot);
      PushNewest(place.slot);
    }
  }
  slots_[place.slot].batch = batch;
  return place;
}

uint32_t ListTier::TakeSlot(uint64_t batch) {
  if (filled_ < slots_.size()) return filled_++;
  const uint32_t slot = Victim(batch);
  if (slot != kNoSlot) Empty(slot);
  return slot;
}

void ListTier::BeginStep(uint64_t batch) {
  last_step_ = step_;
  step_ = batch;
}

// Every slot is looked at twice at most: once to take its mark away, once to take it.
uint32_t ListTier::Victim(uint64_t batch) {
  const bool sieve = options_.policy == TierPolicy::kSieve;
  uint32_t at = sieve && hand_ != kNoSlot ? hand_ : oldest_;
  for (uint64_t looked = 0; looked < 2 * uint64_t{slots_.size()}; ++looked) {
    Slot& slot = slots_[at];
    const uint32_t next = slot.newer != kNoSlot ? slot.newer : oldest_;
    if (RecentlyUsed(slot)) return kNoSlot;  // all newer ones are, too
    if (!InFlight(slot, batch)) {
      if (!sieve || !slot.used_again) {
        if (sieve) hand_ = next == at ? kNoSlot : next;
        return at;
      }
      slot.used_again = false;
    }
    at = next;
  }
  return kNoSlot;
}

void ListTier::Empty(uint32_t slot) {
  const uint32_t block = slots_[slot].block;
  SlotOf(block, slots_[slot].unit) = kNoSlot;
  Unlink(slot);
  if (--blocks_[block].units > 0) return;
  table_.erase(blocks_[block].name);
  free_blocks_.push_back(block);
  if (last_block_ == block) last_block_ = kNoSlot;
}

void ListTier::PushNewest(uint32_t slot) {
  slots_[slot].older = newest_;
  slots_[slot].newer = kNoSlot;
  if (newest_ != kNoSlot) slots_[newest_].newer = slot;
  newest_ = slot;
  if (oldest_ == kNoSlot) oldest_ = slot;
}

void ListTier::Unlink(uint32_t slot) {
  const Slot& s = slots_[slot];
  if (hand_ == slot) hand_ = s.newer;
  (s.older != kNoSlot ? slots_[s.older].newer : oldest_) = s.newer;
  (s.newer != kNoSlot ? slots_[s.newer].older : newest_) = s.older;
}

}  // namespace hga
