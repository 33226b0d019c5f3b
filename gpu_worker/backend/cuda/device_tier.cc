#include "gpu_worker/backend/cuda/device_tier.h"

#include <algorithm>
#include <iterator>

namespace hga {

DeviceTier::DeviceTier(const DeviceTierOptions& options)
    : options_(options), last_used_(options.slots), owners_(options.slots), units_(options.layers) {}

void DeviceTier::BeginStep() {
  ++step_;
  looked_ = 0;
  for (const uint32_t chunk : empty_chunks_) {
    if (chunks_[chunk].units == 0) Forget(chunk);
  }
  empty_chunks_.clear();
}

void DeviceTier::Forget(uint32_t chunk) {
  ChunkHash name;
  std::memcpy(name.bytes.data(), chunks_[chunk].name, sizeof(name.bytes));
  numbers_.erase(name);
  chunks_[chunk] = Chunk();
  free_chunks_.push_back(chunk);
}

uint32_t DeviceTier::LookUpChunk(const ChunkHash& name, uint32_t place) {
  const auto [found, is_new] = numbers_.try_emplace(name, kNoChunk);
  if (is_new) {
    if (free_chunks_.empty()) {
      free_chunks_.push_back(static_cast<uint32_t>(chunks_.size()));
      chunks_.emplace_back();
      const size_t lines = (chunks_.size() * options_.units_per_block + kLineUnits - 1) / kLineUnits;
      Line empty;
      std::fill(std::begin(empty.slots), std::end(empty.slots), kNoSlot);
      for (auto& layer : units_) layer.resize(lines, empty);
    }
    found->second = free_chunks_.back();
    free_chunks_.pop_back();
    Chunk& chunk = chunks_[found->second];
    std::memcpy(chunk.name, name.bytes.data(), sizeof(chunk.name));
    chunk.known = true;
    empty_chunks_.push_back(found->second);
  }
  if (guesses_.size() <= place) guesses_.resize(place + 1, kNoChunk);
  return guesses_[place] = found->second;
}

uint32_t DeviceTier::Take(uint32_t chunk, uint32_t layer, uint32_t unit) {
  const uint32_t slot = FreeSlot();
  if (slot == kNoSlot) return kNoSlot;
  owners_[slot] = {chunk, static_cast<uint16_t>(layer), static_cast<uint16_t>(unit)};
  SlotOf(chunk, layer, unit) = slot;
  last_used_[slot] = step_;
  ++chunks_[chunk].units;
  return slot;
}

// A step passes every slot once at most: what it uses after the hand has gone by stays used.
uint32_t DeviceTier::FreeSlot() {
  if (filled_ < options_.slots) return filled_++;
  for (; looked_ < options_.slots; ++looked_) {
    const uint32_t slot = hand_;
    hand_ = hand_ + 1 == options_.slots ? 0 : hand_ + 1;
    if (last_used_[slot] + 1 >= step_) continue;
    ++looked_;
    const Owner owner = owners_[slot];
    SlotOf(owner.chunk, owner.layer, owner.unit) = kNoSlot;
    if (--chunks_[owner.chunk].units == 0) empty_chunks_.push_back(owner.chunk);
    return slot;
  }
  return kNoSlot;
}

}  // namespace hga
