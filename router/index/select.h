// Which keys of the history a block of queries attends: a pure function of queries and summaries.
//
// Per token and KV head, in two levels: the coarse parts of all chunks of the range rank them, and the best are kept
// (SelectOptions); then every unit (group or token) of those is scored. A unit's score is its share of the attention:
// the softmax over its level and what is attended anyway, per query head, averaged over the query heads of the KV head
// (or pooled in another way: SelectOptions). The best are selected, per KV head or of all KV heads of the layer together
// (RouteBlock::shared), until the block's selection reaches the token's budget, the share that is asked for, or the
// least share of a key. Equal scores: the lower KV head first, then the lower position; a score of 0 selects nothing. A
// token's choice depends on its own query, the summaries and what the tokens before it chose: never on later ones.
#ifndef HGA_ROUTER_INDEX_SELECT_H_
#define HGA_ROUTER_INDEX_SELECT_H_

#include <chrono>
#include <cstdint>
#include <vector>

#include "common/base/helpers.h"
#include "common/kv/route_message.h"
#include "router/index/sequence_index.h"
#include "router/index/sketch_score.h"

namespace hga {

// Chunks that the first level keeps: enough for `overprovision` times the budget, and never fewer than `scan_chunks`.
// The first level is far coarser than the second: what it drops, nothing brings back.
struct SelectOptions {
  uint32_t overprovision = 4;
  uint32_t scan_chunks = 256;
  Pooling pooling = Pooling::kMeanSoftmax;
};

// Where the time of selecting goes, of all threads; counts up.
struct SelectTimes {
  std::chrono::nanoseconds prepare{0};  // queries to floats and tables
  std::chrono::nanoseconds coarse{0};   // scoring and choosing chunks
  std::chrono::nanoseconds fine{0};     // scoring what is in them
  std::chrono::nanoseconds pick{0};     // taking the best until the budget is reached

  SelectTimes& operator+=(const SelectTimes& other) {
    prepare += other.prepare;
    coarse += other.coarse;
    fine += other.fine;
    pick += other.pick;
    return *this;
  }
};

// Work space, kept between calls so that a call allocates nothing once it has grown. One call at a time.
struct SelectScratch {
  struct Head {
    std::vector<uint32_t> chunks;  // kept by the first level, relative to the range
    std::vector<uint64_t> taken;   // [chunks of the range] keys
    size_t first = 0;              // of its units in `shares`; zeros fill the rest of its part
    uint32_t units = 0;
    uint32_t held = 0;             // keys taken
  };
  // Of a thread that scores one KV head.
  struct Scorer {
    std::vector<float> queries_of_head;  // [query heads of a KV head][head_dim]
    std::vector<float> weights;          // of units' vectors, [query heads][vectors][head_dim]
    SketchTables tables;
    std::vector<float> per_chunk;        // [query heads of a KV head] attended
    std::vector<float> scores;           // [query heads][stride]
    std::vector<float> pooled;           // [stride], of chunks
    std::vector<int32_t> work;           // of CutTop
    std::vector<uint64_t> masks;         // of TakeTop
    SelectTimes times;
    // The token and KV head at hand.
    ScoreQueries queries;
    const float* attended = nullptr;     // nullptr: nothing
  };
  std::vector<Head> heads;
  std::vector<Scorer> scorers;       // [threads]
  std::vector<float> shares;         // of all heads' units, [kv_heads][part]
  std::vector<float> coarse;         // [all query heads][stride], of chunks
  std::vector<float> left;           // [stride] keys of chunks that are not taken
  std::vector<float> best;           // of CutToShare
  SelectTimes times;                 // of all threads
};

// heads: [kv_heads], overwritten; missed, where the block asks for it: [tokens][query_heads], as RouteResponse::missed.
// Needs block.route_upto <= index.chunks() and overprovision >= 1. Not finite queries give some selection within the
// budget. helpers: KV heads are scored by several threads; the result is the same.
void Select(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, const SelectOptions& options,
            SelectScratch* scratch, HeadSelection* heads, float* missed = nullptr, Helpers* helpers = nullptr);

// Floats that Select adds up at a time, where another machine can do all that it does bit for bit from this and the
// options: with fused products, sums of 8 or 16 lanes and glibc's expf. 0: it cannot.
uint32_t ReproducibleLanes(const SelectOptions& options);

// The same in plain loops and double precision, for tests.
std::vector<HeadSelection> SelectReference(const SequenceIndex& index, uint32_t layer, const RouteBlock& block,
                                           const SelectOptions& options);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SELECT_H_
