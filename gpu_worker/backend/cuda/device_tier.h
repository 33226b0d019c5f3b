// Which units of K/V lie in which slot of the device tier: the table alone, without the memory. A unit is some
// consecutive tokens of one KV head in one chunk of one layer.
//
// A decode step makes some 100,000 look-ups at 32K tokens, so a look-up is two memory accesses: the units of a chunk,
// layer and KV head share a cache line, found by the chunk's number, which can be fetched ahead. A slot has no place in
// an order of use, but the number of the step that used it last.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_TIER_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_TIER_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/kv/ids.h"

namespace hga {

struct DeviceTierOptions {
  uint32_t slots = 0;
  uint32_t layers = 0;
  uint32_t units_per_block = 0;
};

// One thread. Room is made by throwing out what neither this step nor the last one used; what finds no room is not
// kept. So a tier that is smaller than a step keeps a part of it, and nothing that is being read is overwritten.
class DeviceTier {
 public:
  static constexpr uint32_t kNoSlot = UINT32_MAX;

  explicit DeviceTier(const DeviceTierOptions& options);

  // What was found is good until the next step begins.
  void BeginStep();

  // The number of a chunk, for Use. place: which chunk of its sequence it is; where that is the same sequence's as last
  // time, nothing is hashed.
  uint32_t FindChunk(const ChunkHash& name, uint32_t place) {
    if (place < guesses_.size() && guesses_[place] < chunks_.size() && chunks_[guesses_[place]].Is(name)) {
      return guesses_[place];
    }
    return LookUpChunk(name, place);
  }
  // Use will ask for it soon.
  void PrepareUse(uint32_t chunk, uint32_t layer, uint32_t unit) const {
    __builtin_prefetch(&units_[layer][(size_t{chunk} * options_.units_per_block + unit) / kLineUnits], 1);
  }

  struct Place {
    uint32_t slot = kNoSlot;
    bool hit = false;
  };
  // Where the unit lies, or, not a hit, where it is to be put; kNoSlot: there is no room for it.
  Place Use(uint32_t chunk, uint32_t layer, uint32_t unit) {
    const uint32_t slot = SlotOf(chunk, layer, unit);
    if (slot == kNoSlot) return {Take(chunk, layer, unit), false};
    last_used_[slot] = step_;
    return {slot, true};
  }

  uint32_t slots() const { return options_.slots; }
  // Chunks that have a unit here, or were looked for in this step.
  uint32_t chunks() const { return static_cast<uint32_t>(numbers_.size()); }

 private:
  static constexpr uint32_t kNoChunk = UINT32_MAX;
  // A name is a hash already.
  struct FirstBytes {
    size_t operator()(const ChunkHash& name) const {
      size_t bytes;
      std::memcpy(&bytes, name.bytes.data(), sizeof(bytes));
      return bytes;
    }
  };
  struct Chunk {
    uint64_t name[2] = {};
    uint32_t units = 0;  // that are here
    bool known = false;

    bool Is(const ChunkHash& other) const {
      uint64_t words[2];
      std::memcpy(words, other.bytes.data(), sizeof(words));
      return known && name[0] == words[0] && name[1] == words[1];
    }
  };
  static constexpr uint32_t kLineUnits = 16;
  struct alignas(64) Line {
    uint32_t slots[kLineUnits];  // or kNoSlot
  };
  struct Owner {
    uint32_t chunk = 0;
    uint16_t layer = 0, unit = 0;
  };
  uint32_t LookUpChunk(const ChunkHash& name, uint32_t place);
  void Forget(uint32_t chunk);
  uint32_t Take(uint32_t chunk, uint32_t layer, uint32_t unit);
  uint32_t FreeSlot();
  uint32_t& SlotOf(uint32_t chunk, uint32_t layer, uint32_t unit) {
    const size_t at = size_t{chunk} * options_.units_per_block + unit;
    return units_[layer][at / kLineUnits].slots[at % kLineUnits];
  }

  const DeviceTierOptions options_;
  uint32_t step_ = 2;                    // nothing was ever used in this step or the one before
  std::vector<uint32_t> last_used_;      // [slots]: the step
  std::vector<Owner> owners_;            // [slots]
  uint32_t filled_ = 0;                  // slots [filled_, ..) have never been used
  uint32_t hand_ = 0;                    // where room is looked for
  uint32_t looked_ = 0;                  // slots that the hand has passed in this step: they stay

  absl::flat_hash_map<ChunkHash, uint32_t, FirstBytes> numbers_;  // of chunks
  std::vector<Chunk> chunks_;
  std::vector<std::vector<Line>> units_;  // [layers], [chunks][units_per_block] in lines
  std::vector<uint32_t> free_chunks_, empty_chunks_;  // empty: without a unit when this was noted
  std::vector<uint32_t> guesses_;  // by place in a sequence: what was found there last
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_TIER_H_
