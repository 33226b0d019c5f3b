// Arguments of the kernels that select keys by token sketches (common/kv/sketch.h), in the router's place: what
// router/index/select.h does for a block of one token, with the same roundings in the same order, so bit for bit.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_ARGS_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_ARGS_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"

namespace hga {

// Threads of their blocks: of those that score, of those that go through shares, and of RouteChoose.
inline constexpr uint32_t kRouteScoreThreads = 128, kRouteRowThreads = 256, kRouteChooseThreads = 512;
// Threads that score a chunk's centre together.
inline constexpr uint32_t kRouteCentreThreads = 8;
// RouteSum: a warp adds up a tile while the other threads fill the next, four values each.
inline constexpr uint32_t kRouteFillThreads = 960, kRouteSumThreads = kRouteFillThreads + 32;
inline constexpr uint32_t kRouteTile = 4 * kRouteFillThreads;
// Sums that a row is added up in, as the router does (kWeightsAtOnce of router/index/score.h).
inline constexpr uint32_t kRouteLanes = 16;
// Values of a lane that are read before the ones before them are added. A tile is so many of all lanes, or a multiple.
inline constexpr uint32_t kRouteAddedAhead = 16;
static_assert(kRouteTile % (kRouteLanes * kRouteAddedAhead) == 0);
// Of a chunk and KV head: up in so many wide channels, then down (SketchExtents). A thread of a centre's for each
// channel.
inline constexpr uint32_t kRouteWide = kRouteCentreThreads, kRouteExtents = 2 * kRouteWide;
// Below every score.
inline constexpr float kRouteLowest = -3e38f;

// The best shares are found by the digits of their bits, from the top: how often each value of a digit occurs, among
// the shares that have the digits before it in common with the last one that is taken.
inline constexpr uint32_t kRouteDigits = 3, kRouteBins = 2048, kRouteLastBins = 1024;
struct RouteCounts {
  uint32_t bins[kRouteDigits][kRouteBins];  // of the last digit the first kRouteLastBins
};
// Shares are gone through in parts of so many chunks of a KV head, each by a block.
inline constexpr uint32_t kRoutePartChunks = 32;

// Where the records of the chunks of a range lie, for one layer.
struct RouteRecords {
  const uint8_t* pages;     // [pages][page_bytes]: each a chunk's summary data
  const uint32_t* page_of;  // [chunks of the range]
  uint64_t page_bytes;
  uint64_t first_byte;      // of the layer's records in a page
  uint32_t record_bytes;    // of one KV head: centre [head_dim + 8], then its tokens
  uint64_t first_extent;    // byte of the layer's extents in a page: kRouteExtents of each KV head
};

// Chunks of the range that a KV head's tokens are scored of.
struct RouteKept {
  const uint32_t* chunks;  // [kv_heads][most], ascending; nullptr: all of the range
  const uint32_t* count;   // [kv_heads], with chunks
  uint32_t most;           // without chunks: as many as there are
};

// Of a KV head whose records' bits are dealt out (common/kv/sketch_deal.h): what bit i is, what is left out of channel
// i, and the i-th wide channel, i < kRouteWide.
struct RouteDealt {
  uint16_t channel;  // of the bit
  uint16_t wide;
  float weight;      // of the bit
  float left;        // of channel i
};

// Queries in 16 bits (router/index/centre_score.h), and tables for reading signs. A block for each query head. Shared
// memory: RouteTablesSharedBytes.
struct RouteTablesArgs {
  const bf16* queries;      // [query_heads][head_dim]
  const RouteDealt* dealt;  // [kv_heads][head_dim]; nullptr: bits of rotated channels
  const float* flips;       // [head_dim]: 1 or -1, before the rotation
  int16_t* rounded;      // [query_heads][head_dim]
  float* rounded_steps;  // [query_heads]
  uint32_t* entries;  // [kv_heads][RouteTableGroups][head_dim / 4][16]: bytes of four heads, where there are as many
  float *step, *spread;  // [query_heads], as router/index/sketch_score.h has them
  uint32_t *zero, *shift;  // the same
  uint32_t per_head, head_dim;
  float scale, spread_share;
};

// scores[query head][chunk of the range] = query . centre; ranks: what that and what the extents add weighs beside what
// is attended (router/index/score.h), unless it is null. kRouteCentreThreads for each chunk; a column of blocks
// (grid y) for each KV head.
struct RouteCoarseArgs {
  RouteRecords records;
  const int16_t* rounded;
  const float* rounded_steps;
  const RouteDealt* dealt;  // [kv_heads][head_dim], with ranks; nullptr: nothing has extents
  float* scores;            // [query_heads][stride]
  uint16_t* ranks;          // the same
  const float* attended;    // [query_heads], log of the sum over what is attended besides
  float attended_less;      // taken off it
  uint32_t chunks, stride, per_head, head_dim;
};

// weights[query head][kept chunk * chunk_tokens + token]. A warp for each chunk; a column of blocks (grid y) for each
// KV head. Shared memory: RouteFineSharedBytes.
struct RouteFineArgs {
  RouteRecords records;
  RouteKept kept;
  const float* coarse;  // [query_heads][coarse_stride]
  const uint32_t* entries;
  const float *step, *spread;
  const uint32_t *zero, *shift;
  const float* attended;  // [query_heads]
  uint16_t* weights;      // [query_heads][stride]
  uint32_t coarse_stride, stride, per_head, head_dim, chunk_tokens;
  uint32_t skipped;  // tokens of the range's first chunk that lie before the range
};

// What makes a row's weights shares of the KV head's attention. A block for each query head; rows are aligned to 16
// bytes. Clears `counts` on the way.
struct RouteSumArgs {
  const uint16_t* weights;  // [query_heads][stride]; anything behind the kept chunks'
  float* parts;             // [query_heads]
  RouteKept kept;
  uint32_t each;            // weights of a kept chunk
  uint32_t stride, per_head;
  RouteCounts* counts;      // [groups]
  uint32_t groups;
};

// shares[KV head] = sum of its query heads' weight * part. Four for each thread; a column of blocks (grid y) for each
// KV head. Counts the first digit of those that may be taken, unless `counts` is null; shared memory then: its bins.
struct RoutePoolArgs {
  const uint16_t* weights;
  const float* parts;
  float* shares;  // [kv_heads][stride]; zeros behind the kept chunks'
  RouteKept kept;
  uint32_t each, stride, per_head;
  RouteCounts* counts;  // [groups]
  uint32_t heads;       // of a group
  float least;          // share that may be taken
};

// The best `wanted` chunks of each KV head, equal ones by position. A block for each KV head.
struct RouteChooseArgs {
  const float* shares;  // [kv_heads][stride]
  uint32_t* chunks;     // [kv_heads][most], ascending
  uint32_t* count;      // [kv_heads]
  uint32_t chunks_of_range, stride, wanted, most;
};

// The best `wanted` keys of a group, equal ones by KV head and position, none below `least` or of no share. Groups are
// all KV heads together, or each: a column of blocks (grid y), with a block for each part.
struct RouteGroups {
  const float* shares;    // [kv_heads][stride], zeros behind `most` chunks'
  RouteCounts* counts;    // [groups]
  uint32_t* part_counts;  // [groups][parts][kRouteLastBins]: of the last digit, in each part
  uint32_t most, each, stride;
  uint32_t heads;         // of a group
  uint32_t wanted;        // of a group, at least 1
  float least;
};

// Counts a digit, the first being counted already and so on.
struct RouteCountArgs {
  RouteGroups groups;
  uint32_t digit;
};

// Takes them, once all digits are counted.
struct RouteTakeArgs {
  RouteGroups groups;
  uint64_t* masks;  // [kv_heads][most]: keys of each kept chunk
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_ARGS_H_
