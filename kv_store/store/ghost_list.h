// Names of blocks that were evicted lately. One that is asked for again has earned a better place than a newcomer.
#ifndef HGA_KV_STORE_STORE_GHOST_LIST_H_
#define HGA_KV_STORE_STORE_GHOST_LIST_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "common/kv/ids.h"

namespace hga {

// Remembers the last `capacity` names, 64 bits of each: a mix-up only moves a block to another list.
class GhostList {
 public:
  explicit GhostList(size_t capacity = 0) : ring_(capacity) {}

  void Add(const BlockName& name) {
    if (ring_.empty()) return;
    uint64_t& place = ring_[next_++ % ring_.size()];
    names_.erase(place);
    place = Key(name);
    names_.insert(place);
  }
  // Whether the name was there; it no longer is.
  bool Take(const BlockName& name) { return names_.erase(Key(name)) > 0; }

 private:
  static uint64_t Key(const BlockName& name) { return absl::Hash<BlockName>()(name); }

  std::vector<uint64_t> ring_;
  size_t next_ = 0;
  absl::flat_hash_set<uint64_t> names_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_STORE_GHOST_LIST_H_
