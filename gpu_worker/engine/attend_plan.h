// Which tokens a query attends: pure functions of the position, the options and the router's selection.
//
// A query in chunk c attends the sink chunks and the chunks [c - window, c] always, and of the chunks between them
// (the routed range) what was selected. That depends on the position alone, in prefill and decode alike.
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
  uint32_t sink_chunks = 0;
  uint32_t window_chunks = 0;
};

struct ChunkRange {
  uint32_t first = 0;
  uint32_t end = 0;
  bool empty() const { return first >= end; }
};

// Block of a chunk in the layer at hand; never nullptr for a chunk of the plan.
using BlockOfChunk = std::function<const bf16*(uint32_t chunk)>;

// Chunks that queries of `chunk` reach by routing.
ChunkRange RoutedChunks(const AttendShape& shape, uint32_t chunk);
// Chunks that queries of `chunk` attend always, ascending: sinks, window, the chunk itself.
std::vector<uint32_t> MandatoryChunks(const AttendShape& shape, uint32_t chunk);

// Groups that the query at `position` may select per KV head: at most those in the routed range.
uint32_t BudgetGroups(const AttendShape& shape, const BudgetOptions& budget, uint32_t position);

// Keys that the query at `position` attends always, per KV head and layer.
uint32_t MandatoryKeys(const AttendShape& shape, uint32_t position);

// Fills `out` with the runs that rows [first_row, first_row + rows) at positions from `first_position` on attend
// always. The rows lie in one chunk. No run reaches past the last row's position.
void PlanMandatory(const AttendShape& shape, uint32_t first_row, uint32_t rows, uint32_t first_position,
                   const BlockOfChunk& block, QueryBlock* out);

// Fills `out` with the runs of a selection [kv_heads], ascending by group.
void PlanRouted(const AttendShape& shape, uint32_t first_row, uint32_t rows,
                const std::vector<HeadSelection>& selection, const BlockOfChunk& block, QueryBlock* out);

// Distinct chunks of a selection, ascending.
std::vector<uint32_t> SelectedChunks(const AttendShape& shape, const std::vector<HeadSelection>& selection);
// Keys that `rows` queries attend by a selection, summed over the KV heads.
uint64_t SelectedKeys(const AttendShape& shape, uint32_t rows, const std::vector<HeadSelection>& selection);

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_ATTEND_PLAN_H_
