#include "gpu_worker/backend/cuda/attend_batch.h"

#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {
namespace {

// From so many queries on tensor cores are worth rounding for: never in decode.
constexpr uint32_t kManyFrom = 16;

uint32_t Blocks(uint32_t count, uint32_t of) { return (count + of - 1) / of; }

bool TakesMany(const KvGeometry& g, const QueryBlock& block) {
  return block.rows > 1 && block.rows * g.queries_per_kv_head() >= kManyFrom && ManyTakes(g.head_dim);
}

}  // namespace

void AttendBatch::Clear() {
  run_count_ = 0;
  few_.clear();
  many_.clear();
  sums_.clear();
  merges_.clear();
  list_begin_ = list_keys_ = part_states_ = 0;
}

uint32_t AttendBatch::MostItems(const QueryBlock& block) const {
  if (TakesMany(geometry_, block)) return Blocks(Queries(block), kManyQueries);
  return Blocks(Queries(block), kFewQueries) * (block.rows == 1 ? kMaxParts : 1);
}

uint32_t AttendBatch::PartsOf(const QueryBlock& block) const {
  if (block.rows != 1) return 1;
  const uint32_t parts = std::min(Blocks(list_keys_, kPartKeys), kMaxParts);
  return (limits_.part_states - part_states_) / Queries(block) >= parts ? parts : 1;
}

void AttendBatch::AddItems(const QueryBlock& block, uint32_t kv_head, uint32_t first_run, uint32_t runs,
                           uint32_t part) {
  const bool many = TakesMany(geometry_, block);
  const uint32_t queries = Queries(block), at_once = many ? kManyQueries : kFewQueries;
  for (uint32_t first = 0; first < queries; first += at_once) {
    AttendItem item{};
    item.first_row = block.first_row;
    item.kv_head = kv_head;
    item.first_query = first;
    item.queries = std::min(at_once, queries - first);
    item.first_run = first_run;
    item.runs = runs;
    item.part = part == kNoPart ? kNoPart : part + first;
    (many ? many_ : few_).push_back(item);
  }
}

void AttendBatch::AddSums(const QueryBlock& block, uint32_t kv_head) {
  sums_.push_back({block.first_row, kv_head, 0, block.rows, list_begin_, run_count_ - list_begin_, kNoPart});
}

uint32_t AttendBatch::RoomToShare(absl::Span<const QueryBlock> blocks) const {
  uint64_t items = 0;
  for (const QueryBlock& block : blocks) items += uint64_t{MostItems(block)} * geometry_.kv_heads;
  return RoomBeside(items);
}

void AttendBatch::EndSharedList(absl::Span<const QueryBlock> blocks, uint32_t kv_head, bool sum_values) {
  for (const QueryBlock& block : blocks) {
    if (sum_values) AddSums(block, kv_head);
    AddItems(block, kv_head, list_begin_, run_count_ - list_begin_, kNoPart);
  }
  list_begin_ = run_count_;
  list_keys_ = 0;
}

void AttendBatch::EndList(const QueryBlock& block, uint32_t kv_head, bool sum_values) {
  const uint32_t end = run_count_;
  if (sum_values && list_keys_ > 0) AddSums(block, kv_head);
  const uint32_t parts = list_keys_ == 0 ? 0 : PartsOf(block);
  if (parts == 1) AddItems(block, kv_head, list_begin_, end - list_begin_, kNoPart);
  if (parts > 1) {
    const uint32_t queries = Queries(block), first_part = limits_.first_part_state + part_states_;
    uint32_t made = 0, run = list_begin_;
    while (run < end) {
      // Whole runs, up to where the part would end if all parts were equal.
      const uint64_t upto = (uint64_t{list_keys_} * (made + 1) + parts - 1) / parts;
      const uint32_t first = run++;
      while (run < end && (made + 1 == parts || runs_[run].first_key + runs_[run].tokens <= upto)) ++run;
      AddItems(block, kv_head, first, run - first, first_part + made * queries);
      ++made;
    }
    merges_.push_back({block.first_row * geometry_.query_heads + kv_head * geometry_.queries_per_kv_head(), first_part,
                       made, queries});
    part_states_ += made * queries;
  }
  list_begin_ = end;
  list_keys_ = 0;
}

}  // namespace hga
