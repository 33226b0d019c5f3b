// Shape of a model's K/V cache and the layout of a block.
//
// A block is K and V of one chunk in one layer, KV-head major so that what one KV head attends is contiguous:
//
//   bf16: for each KV head: for each group: K [group_tokens][head_dim], then V [group_tokens][head_dim]
//   int8: for each KV head: for each token: K [head_dim], V [head_dim], scales of K, of V (kv_rows.h), so that a token
//         read alone is five cache lines that follow each other, for a head_dim of 128. Who has K has the rest.
//
// Keys are stored after RoPE.
#ifndef HGA_COMMON_KV_GEOMETRY_H_
#define HGA_COMMON_KV_GEOMETRY_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "common/kv/kv_dtype.h"

namespace hga {

struct KvGeometry {
  uint32_t layers = 0;
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t chunk_tokens = 64;  // at most 64: selections are masks of 64 bits
  uint32_t group_tokens = 16;
  KvDtype dtype = KvDtype::kBf16;  // of the elements in a block: bf16 or int8

  uint32_t groups_per_chunk() const { return chunk_tokens / group_tokens; }
  uint32_t queries_per_kv_head() const { return query_heads / kv_heads; }

  size_t element_bytes() const { return dtype == KvDtype::kBf16 ? 2 : 1; }
  // Bytes of the scales of one token of one KV head.
  size_t scale_bytes() const { return dtype == KvDtype::kBf16 ? 0 : 2 * ScalesOfRow(head_dim); }
  // From K or V of a token to the next one's in its group; in elements, of which a scale of int8 is one, and in bytes.
  size_t row_stride() const { return dtype == KvDtype::kBf16 ? head_dim : 2 * head_dim + scale_bytes(); }
  size_t row_bytes() const { return row_stride() * element_bytes(); }
  // From a token's K to its V, in elements.
  size_t k_to_v() const { return dtype == KvDtype::kBf16 ? run_elements() : head_dim; }
  // Elements of one run: K or V of one group of one KV head.
  size_t run_elements() const { return size_t{group_tokens} * head_dim; }
  // From one group of a KV head to the next.
  size_t group_elements() const { return 2 * run_elements() + group_tokens * scale_bytes(); }
  size_t block_elements() const { return size_t{kv_heads} * groups_per_chunk() * group_elements(); }
  size_t block_bytes() const { return block_elements() * element_bytes(); }
  size_t bytes_per_token() const { return block_bytes() / chunk_tokens * layers; }

  // Offsets in elements from the block's start.
  size_t k_run(uint32_t kv_head, uint32_t group) const {
    return (size_t{kv_head} * groups_per_chunk() + group) * group_elements();
  }
  size_t v_run(uint32_t kv_head, uint32_t group) const { return k_run(kv_head, group) + k_to_v(); }
  size_t k_row(uint32_t kv_head, uint32_t token) const {
    return k_run(kv_head, token / group_tokens) + token % group_tokens * row_stride();
  }
  size_t v_row(uint32_t kv_head, uint32_t token) const { return k_row(kv_head, token) + k_to_v(); }

  // Offset in bytes; not of bf16.
  size_t scales_of(uint32_t kv_head, uint32_t token) const {
    return k_row(kv_head, token) + 2 * size_t{head_dim};
  }

  // INVALID_ARGUMENT naming the field that is out of bounds; every geometry from outside passes here.
  absl::Status Validate() const;

  bool operator==(const KvGeometry& o) const {
    return layers == o.layers && query_heads == o.query_heads && kv_heads == o.kv_heads && head_dim == o.head_dim &&
           chunk_tokens == o.chunk_tokens && group_tokens == o.group_tokens && dtype == o.dtype;
  }
};

}  // namespace hga

#endif  // HGA_COMMON_KV_GEOMETRY_H_
