// The blocks of one sequence that can be read right now.
#ifndef HGA_GPU_WORKER_ENGINE_BLOCK_SET_H_
#define HGA_GPU_WORKER_ENGINE_BLOCK_SET_H_

#include <cstdint>
#include <vector>

#include "kv_store/client/kv_client.h"

namespace hga {

// Owned by the step thread, one per sequence. A block is absent, held, or lent: its hold is with the sealer, which
// keeps it readable at the same place until the commit's holds come back through Put.
class BlockSet {
 public:
  explicit BlockSet(uint32_t layers) : layers_(layers) {}

  // nullptr: absent.
  void* Find(uint32_t chunk, uint32_t layer) const;
  bool HasChunk(uint32_t chunk) const;
  void Put(uint32_t chunk, uint32_t layer, HeldBlock block, uint64_t step);
  // blocks: [layers].
  void PutChunk(uint32_t chunk, std::vector<HeldBlock> blocks, uint64_t step);
  void Touch(uint32_t chunk, uint32_t layer, uint64_t step);

  // Lends the chunk's holds to the sealer. The chunk must be held in every layer.
  std::vector<HeldBlock> Lend(uint32_t chunk);
  // Forgets the chunks from `chunk` on.
  void DropFrom(uint32_t chunk);
  void Release(uint32_t chunk, uint32_t layer);

  struct Use {
    uint64_t last_step = 0;
    uint32_t chunk = 0;
    uint32_t layer = 0;
  };
  // Blocks that are held or lent.
  size_t size() const { return size_; }
  // Held blocks of the chunks [first, end), in no order.
  std::vector<Use> Held(uint32_t first, uint32_t end) const;

 private:
  struct Block {
    HeldBlock hold;
    void* data = nullptr;
    uint64_t last_step = 0;
  };
  const Block* At(uint32_t chunk, uint32_t layer) const;
  Block* Grow(uint32_t chunk, uint32_t layer);

  const uint32_t layers_;
  std::vector<Block> blocks_;  // [chunk][layer]
  size_t size_ = 0;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_BLOCK_SET_H_
