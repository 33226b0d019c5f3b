// Memory for copies of single keys, in pages of a block's size: memory of the worker's own, and slots of the store's
// arena.
#ifndef HGA_GPU_WORKER_ENGINE_KEY_PAGES_H_
#define HGA_GPU_WORKER_ENGINE_KEY_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "common/kv/geometry.h"
#include "common/kv/kv_rows.h"
#include "kv_store/client/kv_client.h"

namespace hga {

// One thread. A slot has room for one key with its value; those of page p are [p, p + 1) * keys_per_page.
class KeyPages {
 public:
  // Slots of the arena to write and keep, at most `count`; none: not now.
  using FromArena = std::function<std::vector<HeldBlock>(uint32_t count)>;

  // bytes: of the worker's own memory, for keys and for the caller's bookkeeping: `beside` bytes about each slot. An
  // eighth is kept for that of the arena's slots.
  KeyPages(const KvGeometry& geometry, uint64_t bytes, uint64_t beside, FromArena from_arena);

  // The arena is asked again for more, once it has refused.
  void BeginStep() { refused_ = false; }
  // New pages; none: there is no memory left. others: bytes that the caller has taken beside all this. from_arena:
  // whether slots of the arena are worth it, once the worker's own are taken.
  std::vector<uint32_t> Grow(uint64_t others, bool from_arena);
  // Pages of the arena.
  std::vector<uint32_t> ArenaPages() const;
  void GiveBack(uint32_t page);

  uint32_t keys_per_page() const { return keys_per_page_; }
  uint32_t arena_pages() const { return arena_pages_; }
  uint32_t slots() const { return slots_; }  // there are now
  bool Has(uint32_t slot) const { return pages_[slot / keys_per_page_].data != nullptr; }
  KvPlace PlaceOf(uint32_t slot) const;
  // Whether the slots lie one behind the other.
  bool SideBySide(absl::Span<const uint32_t> slots) const;

 private:
  struct Page {
    uint8_t* data = nullptr;  // nullptr: was given back
    HeldBlock held;           // either
    std::unique_ptr<uint8_t[]> own;
  };
  uint32_t Put(Page page);

  const uint32_t keys_per_page_;
  const size_t page_bytes_;
  const size_t row_bytes_;  // from one key to the next
  const size_t to_value_;   // from a key to its value
  const uint64_t bytes_, beside_;
  const FromArena from_arena_;
  std::vector<Page> pages_;
  std::vector<uint32_t> given_back_;  // numbers that are free
  uint32_t arena_pages_ = 0, slots_ = 0;
  uint64_t used_ = 0;  // of bytes_
  bool refused_ = false;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_KEY_PAGES_H_
