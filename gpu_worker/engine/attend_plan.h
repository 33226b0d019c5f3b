// Which tokens a query attends: pure functions of the position, the options and the router's selection.
//
// A query in chunk c attends the first sink_tokens keys and the chunks [c - window, c] always, and of the keys between
// them (the routed range) what was selected. Prefill and decode have windows of their own: a prefill step needs one
// that reaches back to what was sealed before it; in decode keys that are chosen are worth more than keys that are
// near.
#ifndef HGA_GPU_WORKER_ENGINE_ATTEND_PLAN_H_
#define HGA_GPU_WORKER_ENGINE_ATTEND_PLAN_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "common/kv/geometry.h"
#include "common/kv/route_message.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/engine/engine_options.h"

namespace hga {

struct AttendShape {
  KvGeometry geometry;
  uint32_t sink_tokens = 0;
  uint32_t window_chunks = 0;
  // Rows that share what they select, if more than one is computed at a time; divides chunk_tokens.
  uint32_t block_tokens = geometry.chunk_tokens;
};

// The windows of the two phases; geometry and sinks are the same.
struct AttendShapes {
  AttendShape prefill, decode;
  uint32_t dense_prefill_tokens = 0;  // prompt tokens below this position are not routed; a multiple of chunk_tokens
};

struct ChunkRange {
  uint32_t first = 0;
  uint32_t end = 0;
  bool empty() const { return first >= end; }
};

// Block of a chunk in the layer at hand; never nullptr for a chunk of the plan.
using BlockOfChunk = std::function<const void*(uint32_t chunk)>;

// Chunks that queries of `chunk` reach by routing; of the first, the keys from sink_tokens on.
ChunkRange RoutedChunks(const AttendShape& shape, uint32_t chunk);
// Those of them that queries of `chunk` need not attend at all.
ChunkRange OptionalChunks(const AttendShape& shape, uint32_t chunk);
// Chunks that queries of `chunk` attend always, ascending: sinks, window, the chunk itself.
std::vector<uint32_t> MandatoryChunks(const AttendShape& shape, uint32_t chunk);

// Keys that the query at `position` may attend by routing, per KV head: at most those in the routed range.
uint32_t BudgetKeys(const AttendShape& shape, const BudgetOptions& budget, uint32_t position);
// The same in prefill, where the queries of a block share what they select: the first may take half of its budget, so
// that each that follows has some left to add.
uint32_t PrefillBudgetKeys(const AttendShape& shape, const BudgetOptions& budget, uint32_t position);

// Keys that the query at `position` attends always, per KV head and layer.
uint32_t MandatoryKeys(const AttendShape& shape, uint32_t position);

// Fills `out` with the runs that rows [first_row, first_row + rows) at positions from `first_position` on attend
// always. The rows lie in one chunk. No run reaches past the last row's position.
void PlanMandatory(const AttendShape& shape, uint32_t first_row, uint32_t rows, uint32_t first_position,
                   const BlockOfChunk& block, QueryBlock* out);

// Fills `out` with the runs of a selection [kv_heads].
void PlanRouted(const AttendShape& shape, uint32_t first_row, uint32_t rows,
                const std::vector<HeadSelection>& selection, const BlockOfChunk& block, QueryBlock* out);

// Says where a run lies, which begins with that token of the chunk: sets its `k` and `v`.
using PlaceRun = std::function<void(uint32_t kv_head, uint32_t chunk, uint32_t token, KvRun* run)>;
// The same runs as PlanRouted, each where `place` says; asked in the selection's order.
void PlanPlaced(const AttendShape& shape, uint32_t first_row, uint32_t rows,
                const std::vector<HeadSelection>& selection, const PlaceRun& place, QueryBlock* out);

// Distinct chunks of a selection, ascending.
std::vector<uint32_t> SelectedChunks(const std::vector<HeadSelection>& selection);
// Keys of one query that both select, summed over the KV heads.
uint64_t KeysInCommon(const std::vector<HeadSelection>& a, const std::vector<HeadSelection>& b);
// Keys that `rows` queries attend by a selection, summed over the KV heads.
uint64_t SelectedKeys(uint32_t rows, const std::vector<HeadSelection>& selection);

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_ATTEND_PLAN_H_
