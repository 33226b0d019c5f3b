// What is wanted of a block: all of it, or what some of its KV heads have in it.
#ifndef HGA_COMMON_KV_BLOCK_HEADS_H_
#define HGA_COMMON_KV_BLOCK_HEADS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/kv/ids.h"

namespace hga {

// KV heads of a block: a bit for each, the first one lowest. kAllHeads is the whole block, whatever the number of
// heads; those beyond kMaskHeads have no bit of their own.
inline constexpr uint64_t kAllHeads = ~uint64_t{0};
inline constexpr uint32_t kMaskHeads = 64;

struct BlockHeads {
  BlockName name;
  uint64_t heads = kAllHeads;
  bool operator==(const BlockHeads& other) const { return name == other.name && heads == other.heads; }
};

inline std::vector<BlockHeads> WholeBlocks(absl::Span<const BlockName> names) {
  std::vector<BlockHeads> blocks;
  for (const BlockName& name : names) blocks.push_back({name});
  return blocks;
}

}  // namespace hga

#endif  // HGA_COMMON_KV_BLOCK_HEADS_H_
