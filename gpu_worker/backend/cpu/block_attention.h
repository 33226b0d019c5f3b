// Exact attention of many queries over a tile of keys (Highway, dispatched at run time). Scores are made with queries
// in the lanes, so that the online softmax needs no sums over lanes; values are added up with channels in the lanes,
// where the partials lie. A query's bits depend on the keys it sees and their order alone.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_BLOCK_ATTENTION_H_
#define HGA_GPU_WORKER_BACKEND_CPU_BLOCK_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hga {

// Queries of one KV head and their partials.
struct BlockQueries {
  uint32_t count = 0;
  const float* packed = nullptr;          // of PackQueries
  float *m = nullptr, *l = nullptr;       // [count] maximum and sum so far
  float* o = nullptr;                     // [count][head_pad]
  uint32_t head_dim = 0, head_pad = 0;    // head_pad: a multiple of 64
};

// Some keys and values that follow each other in the order in which they are added up.
struct BlockTile {
  uint32_t count = 0;                // at most kBlockTileKeys
  const float* keys = nullptr;       // [count][head_dim]
  const float* values = nullptr;     // [count][head_pad], anything behind head_dim
  const uint32_t* first = nullptr;   // [count] the first query that sees the key; all after it do
  // Cache lines that are asked for by and by meanwhile; all at once they would be waited for.
  const void* const* ahead = nullptr;
  uint32_t ahead_count = 0;
};

inline constexpr uint32_t kBlockTileKeys = 64;

// Queries, [count][head_pad], in panels as the kernel reads them.
void PackQueries(const float* queries, uint32_t count, uint32_t head_dim, uint32_t head_pad,
                 std::vector<float>* packed);

// One step of the online softmax of all queries. weights: work space.
void AttendBlock(const BlockQueries& queries, const BlockTile& tile, std::vector<float>* weights);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_BLOCK_ATTENTION_H_
