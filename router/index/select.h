// Which groups of the history a block of queries attends: a pure function of queries and summaries.
//
// Per token and KV head, in two levels: every chunk of the range is scored and the best
// ceil(budget * overprovision / groups_per_chunk) are kept; then every group of those, and the best `budget` are kept.
// A unit's score is the softmax over its level, per query head, averaged over the query heads of the KV head. Equal
// scores: the lower index first. A token's choice depends on nothing but its own query and the summaries; the block's
// selection is the union, with the first token that asked.
#ifndef HGA_ROUTER_INDEX_SELECT_H_
#define HGA_ROUTER_INDEX_SELECT_H_

#include <cstdint>
#include <vector>

#include "common/kv/route_message.h"
#include "router/index/sequence_index.h"

namespace hga {

// Work space, kept between calls so that a call allocates nothing once it has grown. One thread at a time.
struct SelectScratch {
  std::vector<float> queries;         // [heads][head_dim]
  std::vector<float> scores;          // [heads][stride]
  std::vector<float> pooled;          // [stride]
  std::vector<uint64_t> ranked;       // (score, index) as one sortable number
  std::vector<uint32_t> chunks;       // kept by the first level
  std::vector<uint32_t> first_token;  // [groups of the range]
};

// heads: [kv_heads], overwritten. Needs block.route_upto <= index.chunks() and overprovision >= 1. Not finite queries
// give some selection within the budget.
void Select(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, uint32_t overprovision,
            SelectScratch* scratch, HeadSelection* heads);

// The same in plain loops and double precision, for tests.
std::vector<HeadSelection> SelectReference(const SequenceIndex& index, uint32_t layer, const RouteBlock& block,
                                           uint32_t overprovision);

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SELECT_H_
