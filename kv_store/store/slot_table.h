// Bookkeeping of the arena's slots: state, holds, and which clean unheld slot to reuse next.
//
// Eviction resists scans (2Q): a block starts on probation; one that is fetched again while in RAM, or soon after it
// was evicted (ghost_list.h), moves to the protected list, which takes up to three quarters of the slots. Pinned blocks
// have a list of their own, up to half of the slots. Victims come from probation first, from the pinned last.
#ifndef HGA_KV_STORE_STORE_SLOT_TABLE_H_
#define HGA_KV_STORE_STORE_SLOT_TABLE_H_

#include <cstdint>
#include <vector>

namespace hga {

struct Chunk;

inline constexpr uint32_t kNoSlot = ~0u;

enum class SlotState : uint8_t {
  kFree,
  kReserved,  // a client writes it
  kStaging,   // a disk read fills it
  kClean,     // its block is durable
  kDirty,     // its block is only here
  kOrphan,    // its block is gone from the index; freed with its last hold
};
inline constexpr int kSlotStates = 6;

// Owned by one thread (the store's).
class SlotTable {
 public:
  explicit SlotTable(uint32_t count = 0);

  uint32_t count() const { return static_cast<uint32_t>(slots_.size()); }
  SlotState state(uint32_t slot) const { return slots_[slot].state; }
  uint32_t holds(uint32_t slot) const { return slots_[slot].holds; }
  Chunk* chunk(uint32_t slot) const { return slots_[slot].chunk; }
  uint32_t layer(uint32_t slot) const { return slots_[slot].layer; }
  uint64_t in_state(SlotState state) const { return by_state_[static_cast<int>(state)]; }
  uint64_t held() const { return held_; }
  // Slots that can be handed out now: free, or clean and unheld.
  uint64_t available() const {
    return in_state(SlotState::kFree) + lists_[kProbation].size + lists_[kProtected].size + lists_[kPinned].size;
  }

  // A free slot, now in `state` and without holds; kNoSlot if none is free (see Victim).
  uint32_t TakeFree(SlotState state);
  // The clean unheld slot to reuse next, still in place: the caller unlinks it from its chunk and frees it.
  uint32_t Victim() const;

  void Assign(uint32_t slot, Chunk* chunk, uint32_t layer, SlotState state);
  void SetState(uint32_t slot, SlotState state);
  void Hold(uint32_t slot);
  void Unhold(uint32_t slot);
  // The block was asked for again: it has earned the protected list.
  void MarkReused(uint32_t slot) { slots_[slot].reused = true; }
  // Evicted last, as long as there are not too many of them.
  void SetPinned(uint32_t slot, bool pinned);
  // Takes the slot from its chunk: free now, or with its last hold.
  void Drop(uint32_t slot);

 private:
  enum List : uint8_t { kProbation, kProtected, kPinned, kNone };
  struct Slot {
    Chunk* chunk = nullptr;
    uint32_t layer = 0;
    uint32_t holds = 0;
    uint32_t prev = kNoSlot, next = kNoSlot;
    SlotState state = SlotState::kFree;
    List list = kNone;
    bool reused = false;
    bool pinned = false;
  };
  struct ListHead {
    uint32_t oldest = kNoSlot, newest = kNoSlot;
    uint64_t size = 0;
  };

  void Append(uint32_t slot, List list);
  // Moves the oldest of a list that is longer than `limit` to the next one down.
  void Trim(List list, uint64_t limit);
  void Unlink(uint32_t slot);
  // Puts the slot on the list where it belongs by its state and holds.
  void Place(uint32_t slot);
  void Free(uint32_t slot);

  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  ListHead lists_[kNone];
  uint64_t by_state_[kSlotStates] = {};
  uint64_t held_ = 0;
};

}  // namespace hga

#endif  // HGA_KV_STORE_STORE_SLOT_TABLE_H_
