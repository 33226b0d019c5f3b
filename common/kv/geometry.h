// Shape of a model's K/V cache and the layout of a block.
//
// A block is K and V of one chunk in one layer, bf16, KV-head major so that what one KV head attends is contiguous:
//
//   for each KV head: for each group: K [group_tokens][head_dim], then V [group_tokens][head_dim]
//
// Keys are stored after RoPE.
#ifndef HGA_COMMON_KV_GEOMETRY_H_
#define HGA_COMMON_KV_GEOMETRY_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace hga {

struct KvGeometry {
  uint32_t layers = 0;
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t chunk_tokens = 64;  // at most 64: selections are masks of 64 bits
  uint32_t group_tokens = 16;

  uint32_t groups_per_chunk() const { return chunk_tokens / group_tokens; }
  uint32_t queries_per_kv_head() const { return query_heads / kv_heads; }

  // Elements (bf16) of one run: K or V of one group of one KV head.
  size_t run_elements() const { return size_t{group_tokens} * head_dim; }
  size_t block_elements() const { return size_t{kv_heads} * groups_per_chunk() * 2 * run_elements(); }
  size_t block_bytes() const { return block_elements() * 2; }
  size_t bytes_per_token() const { return block_bytes() / chunk_tokens * layers; }

  // Offsets in elements from the block's start.
  size_t k_run(uint32_t kv_head, uint32_t group) const {
    return (size_t{kv_head} * groups_per_chunk() + group) * 2 * run_elements();
  }
  size_t v_run(uint32_t kv_head, uint32_t group) const { return k_run(kv_head, group) + run_elements(); }
  size_t k_row(uint32_t kv_head, uint32_t token) const {
    return k_run(kv_head, token / group_tokens) + size_t{token % group_tokens} * head_dim;
  }
  size_t v_row(uint32_t kv_head, uint32_t token) const { return k_row(kv_head, token) + run_elements(); }

  // INVALID_ARGUMENT naming the field that is out of bounds; every geometry from outside passes here.
  absl::Status Validate() const;

  bool operator==(const KvGeometry& o) const {
    return layers == o.layers && query_heads == o.query_heads && kv_heads == o.kv_heads && head_dim == o.head_dim &&
           chunk_tokens == o.chunk_tokens && group_tokens == o.group_tokens;
  }
};

}  // namespace hga

#endif  // HGA_COMMON_KV_GEOMETRY_H_
