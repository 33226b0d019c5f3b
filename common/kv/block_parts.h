// The bytes that single KV heads have of a block.
#ifndef HGA_COMMON_KV_BLOCK_PARTS_H_
#define HGA_COMMON_KV_BLOCK_PARTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/kv/block_heads.h"
#include "common/kv/geometry.h"

namespace hga {

inline bool HasHead(uint64_t heads, uint32_t head) {
  return head < kMaskHeads ? (heads >> head & 1) != 0 : heads == kAllHeads;
}

// Copies what these heads have to the same places of `to`, and touches nothing else of it.
inline void CopyHeads(const KvGeometry& geometry, uint64_t heads, const uint8_t* from, uint8_t* to) {
  const size_t part = geometry.block_bytes() / geometry.kv_heads;
  for (uint32_t head = 0; head < geometry.kv_heads; ++head) {
    if (HasHead(heads, head)) std::copy_n(from + head * part, part, to + head * part);
  }
}

}  // namespace hga

#endif  // HGA_COMMON_KV_BLOCK_PARTS_H_
