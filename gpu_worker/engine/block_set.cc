#include "gpu_worker/engine/block_set.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"

namespace hga {

const BlockSet::Block* BlockSet::At(uint32_t chunk, uint32_t layer) const {
  const size_t i = size_t{chunk} * layers_ + layer;
  return i < blocks_.size() ? &blocks_[i] : nullptr;
}

BlockSet::Block* BlockSet::Grow(uint32_t chunk, uint32_t layer) {
  HGA_CHECK(layer < layers_);
  if (blocks_.size() < (size_t{chunk} + 1) * layers_) blocks_.resize((size_t{chunk} + 1) * layers_);
  return &blocks_[size_t{chunk} * layers_ + layer];
}

void* BlockSet::Find(uint32_t chunk, uint32_t layer) const {
  const Block* block = At(chunk, layer);
  return block == nullptr ? nullptr : block->data;
}

bool BlockSet::HasChunk(uint32_t chunk) const {
  for (uint32_t layer = 0; layer < layers_; ++layer) {
    if (Find(chunk, layer) == nullptr) return false;
  }
  return true;
}

void BlockSet::Put(uint32_t chunk, uint32_t layer, HeldBlock hold, uint64_t step) {
  Block* block = Grow(chunk, layer);
  size_ += block->data == nullptr;
  block->data = hold.data();
  block->hold = std::move(hold);
  block->last_step = std::max(block->last_step, step);
}

void BlockSet::PutChunk(uint32_t chunk, std::vector<HeldBlock> blocks, uint64_t step) {
  HGA_CHECK(blocks.size() == layers_);
  for (uint32_t layer = 0; layer < layers_; ++layer) Put(chunk, layer, std::move(blocks[layer]), step);
}

void BlockSet::Touch(uint32_t chunk, uint32_t layer, uint64_t step) { Grow(chunk, layer)->last_step = step; }

std::vector<HeldBlock> BlockSet::Lend(uint32_t chunk) {
  std::vector<HeldBlock> holds;
  for (uint32_t layer = 0; layer < layers_; ++layer) {
    Block* block = Grow(chunk, layer);
    HGA_CHECK(static_cast<bool>(block->hold));
    holds.push_back(std::move(block->hold));
  }
  return holds;
}

void BlockSet::DropFrom(uint32_t chunk) {
  const size_t kept = size_t{chunk} * layers_;
  if (blocks_.size() <= kept) return;
  size_ -= std::count_if(blocks_.begin() + kept, blocks_.end(), [](const Block& b) { return b.data != nullptr; });
  blocks_.resize(kept);
}

void BlockSet::Release(uint32_t chunk, uint32_t layer) {
  Block* block = Grow(chunk, layer);
  if (!block->hold) return;
  *block = Block();
  --size_;
}

std::vector<BlockSet::Use> BlockSet::Held(uint32_t first, uint32_t end) const {
  std::vector<Use> held;
  for (uint32_t chunk = first; chunk < end; ++chunk) {
    for (uint32_t layer = 0; layer < layers_; ++layer) {
      const Block* block = At(chunk, layer);
      if (block != nullptr && block->hold) held.push_back({block->last_step, chunk, layer});
    }
  }
  return held;
}

}  // namespace hga
