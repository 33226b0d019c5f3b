// Exact attention over runs of K/V where they lie (online softmax in tiles of up to four runs, GQA-blocked: each K/V
// row is read once for all query heads of its KV head).
#ifndef HGA_GPU_WORKER_BACKEND_CPU_ATTENTION_H_
#define HGA_GPU_WORKER_BACKEND_CPU_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cpu/block_attention.h"
#include "gpu_worker/backend/cpu/int8_rows.h"
#include "gpu_worker/backend/cpu/kernels.h"
#include "gpu_worker/backend/cpu/row_kernels.h"
#include "gpu_worker/backend/cpu/workers.h"

namespace hga {

// The partials of one layer of one step. Step thread only; parallel inside.
class CpuAttention {
 public:
  // The workers outlive it.
  CpuAttention(const KvGeometry& geometry, uint32_t max_rows, Workers* workers);

  // Empty partials. q: [rows][query_heads][head_dim]; positions: [rows].
  void Begin(const float* q, const uint32_t* positions, uint32_t rows);
  // Merges the plan's runs into the partials. The result depends on the runs and their order alone.
  void Attend(const AttendPlan& plan);
  // out: [rows][query_heads]; -infinity where nothing was attended.
  void LogSumExp(float* out) const;
  // As Backend::AddResidual.
  void AddResidual(const float* missed);
  // out: [rows][query_heads][head_dim]; zero where nothing was attended.
  void Finish(float* out) const;

 private:
  // Where some keys and values are that a decoding row sees.
  struct SeenRows {
    uint32_t count = 0;
    const void* k[kRowsAtATime];
    const void* v[kRowsAtATime];
  };
  struct Scratch {
    std::vector<float> keys;     // [kTileKeys][head_dim]
    std::vector<float> values;   // [kTileKeys][head_pad], zero behind head_dim
    std::vector<float> packed;   // a block's queries
    std::vector<float> weights;  // of a panel of them
    std::vector<float> scores;   // [kTileQueries][kTileKeys]
    std::vector<float> sum;      // [head_pad] of a tile's values
    std::vector<float> partial;  // a decoding row's m, l and o, a cache line around them
    std::vector<const void*> ahead;  // cache lines of the next tile
    uint32_t first[kTileKeys];   // queries of a block that see a key of the tile
    SeenRows rows[2];            // at hand, and the next
    Int8Queries rounded;         // the row's queries, where K/V is int8
  };
  struct Tile;
  class RowCursor;
  // Consecutive runs of one block and KV head, and the partials they go to.
  struct Task {
    const QueryBlock* block;
    uint32_t kv_head;
    size_t first_run, end_run;
    float *m, *l, *o;  // of the block's first row: [rows][queries_per_kv_head], o with [head_pad]
    float *value_sum, *value_count;  // likewise: [rows], value_sum with [head_pad]; nullptr: not wanted
  };

  // A row that decodes over many runs is cut into parts of fixed length, so that threads share it.
  void PlanTasks(const AttendPlan& plan);
  void MergeParts();
  void ClearValueSums();
  // The runs from i on that make one tile; none: an empty one.
  static Tile TileAt(const std::vector<KvRun>& runs, size_t i, size_t end);
  // The cache lines of a tile's rows, which are asked for while the one before is computed.
  void ListLines(const Tile& tile, std::vector<const void*>* lines) const;
  void AttendRuns(const Task& task, Scratch* scratch);
  // Of one row: K and V are read where they lie.
  void AttendInPlace(const Task& task, Scratch* scratch);
  void AttendRows(const Task& task, const SeenRows& rows, const SeenRows& next, Scratch* scratch) const;
  // The products of AttendRows: of the row's queries [first, first + count) with the keys; of weights with the values.
  void Scores(const Task& task, uint32_t first, uint32_t count, const SeenRows& rows, const SeenRows& next,
              Scratch* scratch) const;
  void AddWeighted(const float* weights, const float* keep, uint32_t count, const SeenRows& rows, const SeenRows& next,
                   float* o) const;
  void AttendTile(const Task& task, const Tile& tile, const BlockQueries& queries, Scratch* scratch);
  // Keys [tokens][head_dim] and values [tokens][head_pad] as floats.
  void LoadRun(const KvRun& run, float* keys, float* values) const;
  void LoadTile(const Task& task, const Tile& tile, Scratch* scratch) const;
  // Adds the values that the rows see to their sums.
  void AddValues(const Task& task, const Tile& tile, Scratch* scratch) const;
  void Mask(const Tile& tile, uint32_t block_row, uint32_t position, float* scores) const;
  // Queries of a KV head lie together: [kv_head][row][query of the head].
  size_t StateIndex(uint32_t kv_head, uint32_t row) const {
    return (size_t{kv_head} * max_rows_ + row) * geometry_.queries_per_kv_head();
  }

  // Constant after construction.
  const KvGeometry geometry_;
  const uint32_t max_rows_;
  const uint32_t head_pad_;
  const bool int8_;  // what blocks hold; else bf16
  const float scale_;
  Workers* const workers_;

  // Step thread only.
  uint32_t rows_ = 0;
  const uint32_t* positions_ = nullptr;
  std::vector<float> q_, o_;  // [kv_heads][max_rows][queries_per_kv_head][head_pad]
  std::vector<float> m_, l_;  // [kv_heads][max_rows][queries_per_kv_head]
  std::vector<Scratch> scratch_;  // one per thread
  std::vector<Task> tasks_;
  std::vector<size_t> parted_;              // tasks whose partials are in part_*, in order
  std::vector<float> value_sum_, value_count_;  // [kv_heads][max_rows], value_sum_ with [head_pad]
  bool sums_values_ = false;                    // they are of this layer
  std::vector<float> part_m_, part_l_, part_o_, part_value_sum_, part_value_count_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_ATTENTION_H_
