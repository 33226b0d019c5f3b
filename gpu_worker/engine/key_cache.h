// Copies of single keys, K and V, in the worker's own memory: for sequences whose blocks do not fit the arena.
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
#include "common/kv/geometry.h"
#include "common/kv/ids.h"
#include "common/kv/kv_rows.h"
#include "common/kv/route_message.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/engine/attend_plan.h"

namespace hga {

// Where the keys of one selection lie, in its order: by KV head, then by chunk, then by token.
struct FoundKeys {
  static constexpr uint32_t kInBlock = UINT32_MAX;
  std::vector<uint32_t> slots;  // of the cache, or kInBlock
  std::vector<uint32_t> chunks;  // ascending: of which a key is in the cache and in no block that is held
  uint64_t cached = 0, copied = 0;  // keys that were here, and that were copied here
};

// One thread. Keys are named by their chunk's hash, so what is found is right whatever became of the sequence that
// brought it. Memory is taken with the first key. Room is made by throwing out what neither this step nor the last one
// used; what finds no room is not kept. So nothing that is being read is overwritten.
class KeyCache {
 public:
  // Keys for which there is room in `bytes`, bookkeeping included.
  KeyCache(const KvGeometry& geometry, uint64_t bytes);

  // What was found is good until the next step begins, what was planned until the next layer does.
  void BeginStep();
  void BeginLayer();

  // A selection of one layer. names: of the sequence's finished chunks; a chunk beyond them is not looked for. block:
  // nullptr for a block that is not held; keys of those that are held are read there. Fills found->chunks with the
  // chunks that are neither held nor wholly here.
  void Find(uint32_t layer, absl::Span<const ChunkHash> names, const std::vector<HeadSelection>& selection,
            const BlockOfChunk& block, FoundKeys* found);
  // Once all of found->chunks are held: copies what was not here.
  void Fill(uint32_t layer, absl::Span<const ChunkHash> names, const std::vector<HeadSelection>& selection,
            const BlockOfChunk& block, FoundKeys* found);
  // PlanRouted with K and V from where Find and Fill have them: the same runs.
  void Plan(const AttendShape& shape, uint32_t first_row, uint32_t rows, const std::vector<HeadSelection>& selection,
            const BlockOfChunk& block, const FoundKeys& found, QueryBlock* out);

  uint32_t slots() const { return slots_; }

 private:
  // Of a slot and of one step.
  struct Key {
    ChunkHash chunk;
    uint32_t place = 0;  // (layer, KV head, token of the chunk)
    bool operator==(const Key& o) const { return place == o.place && chunk == o.chunk; }
  };
  struct HashOfKey {
    size_t operator()(const Key& key) const;
  };
  uint32_t PlaceOf(uint32_t layer, uint32_t kv_head, uint32_t token) const {
    return (layer * geometry_.kv_heads + kv_head) * geometry_.chunk_tokens + token;
  }
  // The first of some rows of our own: of bf16 the values lie apart, at `v`.
  KvPlace FirstAt(const uint8_t* k, const uint8_t* v) const;
  KvPlace PlaceOfSlot(uint32_t slot) const { return PlaceAfter(geometry_, FirstAt(k_.get(), v_.get()), slot); }
  void CopyRow(const KvPlace& from, const KvPlace& to) const;
  // FoundKeys::kInBlock: there is no room.
  uint32_t FreeSlot();
  uint32_t Keep(const Key& key, const KvPlace& from);
  void PlaceRun(const uint32_t* slots, const void* block, uint32_t kv_head, uint32_t token, KvRun* run);
  uint8_t* Gather(size_t bytes);

  const KvGeometry geometry_;
  const size_t row_bytes_;    // from one row to the next
  const size_t value_bytes_;  // of values that lie apart
  const uint32_t slots_;
  std::unique_ptr<uint8_t[]> k_, v_;  // [slots][row_bytes], [slots][value_bytes]
  absl::flat_hash_map<Key, uint32_t, HashOfKey> slot_of_;
  std::vector<Key> owners_;          // [filled]
  std::vector<uint32_t> last_used_;  // [filled]: the step
  uint32_t step_ = 2;                // nothing was ever used in this step or the one before
  uint32_t hand_ = 0;                // where room is looked for
  uint32_t looked_ = 0;              // slots that the hand has passed in this step: they stay

  // Keys of a run that do not lie side by side are put together here.
  struct Page {
    std::unique_ptr<uint8_t[]> data;
    size_t used = 0;
  };
  std::vector<Page> pages_;
  size_t page_ = 0;  // that is being filled
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_KEY_CACHE_H_
