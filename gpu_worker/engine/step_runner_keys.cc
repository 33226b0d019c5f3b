// Keys of blocks that find no room in the arena. As many blocks as there is room for stay held and are read in place.
// One that is fetched beyond that is held for one layer: its keys that are selected are copied, and tokens that select
// them again read the copies.
#include <algorithm>

#include "absl/numeric/bits.h"
#include "gpu_worker/engine/step_runner.h"

namespace hga {
namespace {

// A selection of more than a quarter of the keys is better served by blocks: it would only push out what others use.
constexpr uint64_t kFewShare = 4;

}  // namespace

BlockOfChunk StepRunner::HeldBlocks(const Block& block, uint32_t layer) {
  const BlockSet* const held = &block.part->sequence->blocks;
  return [held, layer](uint32_t chunk) -> const void* { return held->Find(chunk, layer); };
}

bool StepRunner::SelectsFew(const Block& block, uint32_t layer) const {
  if (block.dense || Probed(block, layer)) return false;
  uint64_t keys = 0;
  for (const HeadSelection& head : *block.selection) {
    for (const SelectedChunk& s : head) keys += absl::popcount(s.mask);
  }
  const uint64_t all = uint64_t{block.routed.end - block.routed.first} * geometry_.chunk_tokens * geometry_.kv_heads;
  return keys * kFewShare <= all;
}

void StepRunner::FindKeys(uint32_t layer) {
  if (keys_ == nullptr) return;
  keys_->BeginLayer();
  for (Block& b : blocks_) {
    b.by_keys = short_of_room_ && b.selection != nullptr && b.part->status.ok() && SelectsFew(b, layer);
    if (!b.by_keys) continue;
    keys_->Find(layer, Finished(b), *b.selection, HeldBlocks(b, layer), &b.found);
    counts_.cached_keys += b.found.cached;
  }
}

void StepRunner::FillKeyCache(uint32_t layer) {
  for (Block& b : blocks_) {
    if (!b.by_keys || !b.part->status.ok()) continue;
    keys_->Fill(layer, Finished(b), *b.selection, HeldBlocks(b, layer), &b.found);
    counts_.copied_keys += b.found.copied;
  }
}

// Of a block that has come, or of those heads of it.
void StepRunner::KeepOrGiveBack(Block* block, uint32_t chunk, uint64_t heads) {
  if (!block->by_keys) return;
  if (heads != kAllHeads || !room_.may_hold(0)) {
    fetched_.push_back({block->part->sequence, chunk});
  } else if (const auto to_copy = block->found.Find(chunk); to_copy != block->found.lacking.end()) {
    block->found.lacking.erase(to_copy);
  }
}

void StepRunner::GiveBackFetched(uint32_t layer) {
  for (const auto& [sequence, chunk] : fetched_) sequence->blocks.Release(chunk, layer);
  fetched_.clear();
}

}  // namespace hga
