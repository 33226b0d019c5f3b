// Values in RAM within a budget, as 2Q: newcomers are on probation, what is asked for again is protected (up to three
// quarters of the budget). So a long prefill, whose blocks nobody asks for, pushes out other newcomers only.
#ifndef HGA_KV_STORE_TIER_PACKED_CACHE_H_
#define HGA_KV_STORE_TIER_PACKED_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "common/kv/ids.h"

namespace hga {

// Thread-safe.
class PackedCache {
 public:
  using Value = std::shared_ptr<const std::string>;
  // Charged for each value beside its bytes: list node, index entry, shared_ptr, the allocator's rounding.
  static constexpr uint64_t kEntryOverhead = 256;

  explicit PackedCache(uint64_t budget_bytes) : budget_(budget_bytes) {}

  // Replaces a value of that name; one that alone exceeds the budget is not kept.
  void Put(const BlockName& name, Value value);
  // nullptr: not here.
  Value Get(const BlockName& name);
  bool Has(const BlockName& name) const;  // changes nothing
  void Erase(const BlockName& name);

  struct Stats {
    uint64_t bytes = 0, blocks = 0, evictions = 0;
  };
  Stats stats() const;
  uint64_t budget_bytes() const { return budget_; }

 private:
  struct Entry {
    BlockName name;
    Value value;
    bool is_protected = false;
  };
  using List = std::list<Entry>;  // newest first

  // With mu_ held.
  static uint64_t Charge(const Entry& entry) { return entry.value->capacity() + kEntryOverhead; }
  void Remove(List::iterator entry);
  void Protect(List::iterator entry);

  const uint64_t budget_;
  mutable std::mutex mu_;
  // Guarded by mu_.
  List probation_, protected_;
  absl::flat_hash_map<BlockName, List::iterator> index_;
  uint64_t bytes_ = 0, protected_bytes_ = 0, evictions_ = 0;
};

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_PACKED_CACHE_H_
