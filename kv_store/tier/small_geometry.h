// A shape for tests of the store: two layers of two KV heads, chunks of 4 tokens.
#ifndef HGA_KV_STORE_TIER_SMALL_GEOMETRY_H_
#define HGA_KV_STORE_TIER_SMALL_GEOMETRY_H_

#include "common/kv/geometry.h"

namespace hga {

inline KvGeometry SmallGeometry() {
  KvGeometry g;
  g.layers = 2;
  g.query_heads = g.kv_heads = 2;
  g.head_dim = 8;
  g.chunk_tokens = 4;
  g.group_tokens = 2;
  return g;
}

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_SMALL_GEOMETRY_H_
