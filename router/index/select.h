// Which keys of the history a block of queries attends: a pure function of queries and summaries.
//
// Per token and KV head, in two levels: the coarse parts of all chunks of the range rank them, and the best are kept
// (SelectOptions); then every unit (group or token) of those is scored. A unit's score is its share of the attention:
// the softmax over its level and what is attended anyway, per query head, averaged over the query heads of the KV head
// (or pooled in another way: SelectOptions). The best are selected, per KV head or of all KV heads of the layer
// together (RouteBlock::shared), until the block's selection reaches the token's budget, the share that is asked for,
// or the least share of a key. Equal scores: the lower KV head first, then the lower position; a score of 0 selects
// nothing. A token's choice depends on its own query, the summaries and what the tokens before it chose: never on later
// ones.
#ifndef HGA_ROUTER_INDEX_SELECT_H_
#define HGA_ROUTER_INDEX_SELECT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/helpers.h"
#include "common/kv/route_message.h"
#include "router/index/head_scorer.h"
#include "router/index/select_options.h"
#include "router/index/sequence_index.h"
#include "router/index/top_units.h"

namespace hga {

// Work space, kept between calls so that a call allocates nothing once it has grown. One call at a time.
struct SelectScratch {
  struct Head {
    std::vector<uint64_t> taken;   // [chunks of the range] keys
    size_t counted = 0;            // of its selection's parts, in `held`
    uint64_t held = 0;             // keys
  };
  // Units that may be among the best, in order.
  struct Found {
    std::vector<uint32_t> chunks;  // kept by the first level, relative to the range
    uint32_t count = 0;            // of units
    std::vector<float> shares;
    std::vector<uint32_t> places;  // 64 * place of the chunk in `chunks` + unit of the chunk
  };
  std::vector<Head> heads;
  std::vector<HeadScratch> scorers;  // [threads]
  std::vector<float> shares;         // of units: of one token [kv_heads][row], of some tokens [threads][tokens][row]
  std::vector<float> coarse;         // [all query heads][stride], of chunks, where what is missed is asked for
  std::vector<float> left;           // [stride] keys of chunks that are not taken
  std::vector<float> best;           // of CutToShare
  std::vector<Found> found;          // [tokens][kv_heads]
  Found candidates;                  // of one token, of all KV heads one after the other; no chunks
  std::vector<uint32_t> ends;        // [kv_heads + 1] of each head's candidates; the first is 0
  std::vector<TopCut> cuts;          // [kv_heads]
  // [layers] the share that the last single token was cut at, of whatever sequence; 0: none yet. It says where the next
  // one looks first, and changes no choice.
  std::vector<float> last_cuts;
  SelectTimes times;                 // of all threads
};

// heads: [kv_heads], overwritten; missed, where the block asks for it: [tokens][query_heads], as RouteResponse::missed.
// Needs block.route_upto <= index.chunks() and overprovision >= 1. Not finite queries give some selection within the
// budget. helpers: KV heads are scored by several threads; the result is the same.
void Select(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, const SelectOptions& options,
            SelectScratch* scratch, HeadSelection* heads, float* missed = nullptr, Helpers* helpers = nullptr);

// Whether another machine can do all that Select does bit for bit from the options: with fused products, and the mean
// of softmaxes.
bool Reproducible(const SelectOptions& options);

// The same in plain loops and double precision, for tests.
std::vector<HeadSelection> SelectReference(const SequenceIndex& index, uint32_t layer, const RouteBlock& block,
                                           const SelectOptions& options);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SELECT_H_
