// A block of made-up K/V, for tests and benchmarks.
#ifndef HGA_COMMON_KV_RANDOM_BLOCK_H_
#define HGA_COMMON_KV_RANDOM_BLOCK_H_

#include <cstdint>
#include <random>
#include <vector>

#include "common/kv/bf16.h"
#include "common/kv/geometry.h"
#include "common/kv/kv_rows.h"

namespace hga {

// Normally distributed, rounded to the geometry's type. block: [block_bytes].
inline void FillRandomBlock(const KvGeometry& g, std::mt19937* random, void* block) {
  std::normal_distribution<float> normal;
  std::vector<bf16> k(g.head_dim), v(g.head_dim);
  for (uint32_t head = 0; head < g.kv_heads; ++head) {
    for (uint32_t token = 0; token < g.chunk_tokens; ++token) {
      for (bf16& x : k) x = ToBf16(normal(*random));
      for (bf16& x : v) x = ToBf16(normal(*random));
      WriteKv(g, k.data(), v.data(), block, head, token);
    }
  }
}

}  // namespace hga

#endif  // HGA_COMMON_KV_RANDOM_BLOCK_H_
