// The table of a device tier with lists in order of use: to compare replacement policies, and the real table with
// (gpu_worker/backend/cuda/device_tier.h). A unit is some consecutive tokens of one KV head in one block (one chunk of
// one layer).
#ifndef HGA_TESTS_BENCH_LIST_TIER_H_
#define HGA_TESTS_BENCH_LIST_TIER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/kv/ids.h"

namespace hga {

// What makes room for a unit that is not there.
enum class TierPolicy {
  kFifo,   // the oldest
  kLru,    // what was used longest ago
  kSieve,  // the oldest that has not been used since the hand last passed: Zhang et al., NSDI 2024
  // As kLru, but nothing that this step or the last one used: what finds no room is not kept. Steps use much the same
  // K/V in the same order, so a tier that is smaller than a step would lose everything just before it is used again.
  kLruByStep,
};

struct ListTierOptions {
  uint32_t slots = 0;
  uint32_t units_per_block = 0;
  TierPolicy policy = TierPolicy::kLruByStep;
};

// One thread. A block costs memory only while a unit of it is there.
class ListTier {
 public:
  static constexpr uint32_t kNoSlot = UINT32_MAX;

  explicit ListTier(const ListTierOptions& options);

  struct Place {
    uint32_t slot = kNoSlot;
    bool hit = false;
  };
  // Where the unit lies, or, not a hit, where it is to be put. `batch` never falls. Nothing that was used at `batch` or
  // the one before it is thrown out, since those may still be read: kNoSlot if there is nothing else.
  Place Use(const BlockName& block, uint32_t unit, uint64_t batch);
  // A step begins, with `batch`.
  void BeginStep(uint64_t batch);

  uint32_t slots() const { return static_cast<uint32_t>(slots_.size()); }
  uint32_t blocks() const { return static_cast<uint32_t>(table_.size()); }

 private:
  struct Slot {
    uint32_t block = 0, unit = 0;
    uint32_t newer = kNoSlot, older = kNoSlot;
    uint64_t batch = 0;
    bool used_again = false;
  };
  uint32_t FindBlock(const BlockName& name);
  uint32_t& SlotOf(uint32_t block, uint32_t unit) { return units_[size_t{block} * options_.units_per_block + unit]; }
  uint32_t TakeSlot(uint64_t batch);
  uint32_t Victim(uint64_t batch);
  bool InFlight(const Slot& slot, uint64_t batch) const { return slot.batch + 1 >= batch; }
  bool RecentlyUsed(const Slot& slot) const {
    return options_.policy == TierPolicy::kLruByStep && slot.batch >= last_step_;
  }
  void Empty(uint32_t slot);
  void PushNewest(uint32_t slot);
  void Unlink(uint32_t slot);

  const ListTierOptions options_;
  std::vector<Slot> slots_;
  uint32_t filled_ = 0;  // slots [filled_, ..) have never been used
  uint32_t newest_ = kNoSlot, oldest_ = kNoSlot, hand_ = kNoSlot;
  uint64_t step_ = 0, last_step_ = 0;  // first batches of this step and of the one before

  absl::flat_hash_map<BlockName, uint32_t> table_;  // to its place in blocks_
  struct Block {
    BlockName name;
    uint32_t units = 0;  // that are there
  };
  std::vector<Block> blocks_;
  std::vector<uint32_t> units_;  // [blocks][units_per_block]: slot or kNoSlot
  std::vector<uint32_t> free_blocks_;
  BlockName last_name_;
  uint32_t last_block_ = kNoSlot;  // of last_name_: runs come block by block
};

}  // namespace hga

#endif  // HGA_TESTS_BENCH_LIST_TIER_H_
