// Copies of single keys, K and V: for sequences whose blocks do not fit the arena.
//
// A token selects a few keys from each of many blocks. Where the arena cannot hold those blocks, they would be read
// from disk again for each token; the keys themselves fit in little, and most of them are selected by the next token
// too.
#ifndef HGA_GPU_WORKER_ENGINE_KEY_CACHE_H_
#define HGA_GPU_WORKER_ENGINE_KEY_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "common/kv/block_heads.h"
#include "common/kv/geometry.h"
#include "common/kv/ids.h"
#include "common/kv/kv_rows.h"
#include "common/kv/route_message.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/engine/attend_plan.h"
#include "gpu_worker/engine/key_pages.h"

namespace hga {

// Where the keys of one selection lie, in its order: by KV head, then by chunk, then by token.
struct FoundKeys {
  static constexpr uint32_t kInBlock = UINT32_MAX;
  // A chunk of which a key is neither in the cache nor in a block that is held.
  struct Lacking {
    uint32_t chunk = 0;
    uint64_t heads = 0;  // the KV heads that select such a key, as of BlockHeads
  };
  std::vector<uint32_t> slots;  // of the cache, or kInBlock
  std::vector<Lacking> lacking;  // by chunk, ascending
  uint64_t cached = 0, copied = 0;  // keys that were here, and that were copied here

  // lacking.end(): it lacks nothing.
  std::vector<Lacking>::iterator Find(uint32_t chunk);
};

// One thread. Keys are named by their chunk's hash, so what is found is right whatever became of the sequence that
// brought it. Room is made by throwing out what neither this step nor the last one used; what finds none is not kept.
// So nothing that is being read is overwritten. Slots of the arena are taken until there is room for what some steps
// ask for.
class KeyCache {
 public:
  // bytes: of the worker's own memory, bookkeeping included.
  KeyCache(const KvGeometry& geometry, uint64_t bytes, KeyPages::FromArena from_arena);

  // What was found and planned is good until the next layer begins.
  void BeginStep();
  void BeginLayer();

  // A selection of one layer. names: of the sequence's finished chunks; a chunk beyond them is not looked for. block:
  // nullptr for a block that is not held; keys of those that are held are read there.
  void Find(uint32_t layer, absl::Span<const ChunkHash> names, const std::vector<HeadSelection>& selection,
            const BlockOfChunk& block, FoundKeys* found);
  // Once all of found->lacking are held, or those heads of them: copies what was not here.
  void Fill(uint32_t layer, absl::Span<const ChunkHash> names, const std::vector<HeadSelection>& selection,
            const BlockOfChunk& block, FoundKeys* found);
  // PlanRouted with K and V from where Find and Fill have them: the same runs.
  void Plan(const AttendShape& shape, uint32_t first_row, uint32_t rows, const std::vector<HeadSelection>& selection,
            const BlockOfChunk& block, const FoundKeys& found, QueryBlock* out);

  // Gives pages of the arena back, with their keys; returns how many. None that this layer reads.
  uint32_t GiveBack(uint32_t pages);
  uint32_t arena_pages() const { return pages_.arena_pages(); }
  uint32_t slots() const { return pages_.slots(); }

 private:
  // A chunk's keys of one KV head of a layer.
  struct Name {
    ChunkHash chunk;
    uint32_t head = 0;  // of all layers' KV heads
    bool operator==(const Name& o) const { return head == o.head && chunk == o.chunk; }
  };
  struct HashOfName {
    size_t operator()(const Name& name) const;
  };
  struct Key {
    uint32_t slot = 0;
    uint32_t last_used = 0;  // the step
  };
  // Those that are here.
  struct Keys {
    Name name;
    uint64_t mask = 0;      // of the chunk's tokens; 0: the place is free
    uint64_t used_in = 0;   // the last layer, of all steps
    std::vector<Key> keys;  // one for each bit of the mask
    Key* Find(uint32_t token);
    void Add(uint32_t token, const Key& key);
    void Remove(uint32_t token);
  };
  // Whose key a slot has, in four bytes, since there are as many as keys.
  struct Slot {
    uint32_t owner : 26;  // place in keys_
    uint32_t token : 6;
  };
  static constexpr Slot kNobody = {(1u << 26) - 1, 0};
  static constexpr uint32_t kMostSlots = 1u << 25;

  Name NameOf(const ChunkHash& chunk, uint32_t layer, uint32_t kv_head) const {
    return {chunk, layer * geometry_.kv_heads + kv_head};
  }
  // nullptr: none.
  Keys* KeysOf(const Name& name);
  Keys* OwnerOf(uint32_t slot);
  void CopyRow(const KvPlace& from, const KvPlace& to) const;
  // FoundKeys::kInBlock: there is no room.
  uint32_t FreeSlot();
  bool Grow(bool from_arena);
  void Forget(uint32_t slot);
  uint32_t Keep(const Name& name, uint32_t token, const KvPlace& from);
  void PlaceRun(const uint32_t* slots, const void* block, uint32_t kv_head, uint32_t token, KvRun* run);
  uint8_t* Gather(size_t bytes);

  const KvGeometry geometry_;
  const size_t row_bytes_;    // from one row to the next
  const size_t value_bytes_;  // of values that lie apart
  KeyPages pages_;
  absl::flat_hash_map<Name, uint32_t, HashOfName> table_;  // of keys_
  std::vector<Keys> keys_;
  std::vector<uint32_t> free_;   // of keys_
  std::vector<Slot> slots_;      // of all pages
  std::vector<uint32_t> spare_;  // that were never used, the next one last
  uint32_t step_ = 2;            // nothing was ever used in this step or the one before
  uint64_t layer_ = 1;           // of all steps
  uint32_t hand_ = 0;            // where room is looked for
  uint32_t looked_ = 0;          // slots that the hand has passed in this step: they stay
  uint64_t asked_ = 0, asked_before_ = 0;  // keys that were looked for, in this step and the last one

  // Keys of a run that do not lie side by side are put together here.
  struct Scratch {
    std::unique_ptr<uint8_t[]> data;
    size_t used = 0;
  };
  std::vector<Scratch> scratch_;
  size_t filling_ = 0;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_KEY_CACHE_H_
