// What one launch of the attention kernels works on, put together on the host: runs, items, merges.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_ATTEND_BATCH_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_ATTEND_BATCH_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/kv/geometry.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/kernels/args.h"

namespace hga {

// A decoding row's keys are cut into parts of at least so many keys, and into at most so many parts, so that one row
// fills a device; the parts' states are merged.
inline constexpr uint32_t kPartKeys = 64, kMaxParts = 64;

struct AttendBatchLimits {
  uint32_t runs = 16384;
  uint32_t items = 4096;
  uint32_t first_part_state = 0, part_states = 0;
};

// One thread.
class AttendBatch {
 public:
  AttendBatch(const KvGeometry& geometry, const AttendBatchLimits& limits)
      : geometry_(geometry), limits_(limits), runs_(limits.runs) {}

  void Clear();
  bool empty() const { return few_.empty() && many_.empty(); }
  // How many runs more a list of `block` may have, one that begins or goes on.
  uint32_t RoomOf(const QueryBlock& block) const { return RoomBeside(MostItems(block)); }
  // The same of the lists that all of `blocks` share, one for each KV head: runs of all of them together.
  uint32_t RoomToShare(absl::Span<const QueryBlock> blocks) const;
  // A run of the list that is being made. There must be room for it. Called for each of some 100,000 units of a token,
  // so every field is written once, where it stays.
  void Add(const bf16* k, const bf16* v, uint32_t position, uint32_t tokens, uint16_t first_row) {
    DeviceRun& run = runs_[run_count_++];
    run.k = k;
    run.v = v;
    run.position = position;
    run.first_key = list_keys_;
    run.tokens = static_cast<uint16_t>(tokens);
    run.first_row = first_row;
    list_keys_ += tokens;
  }
  // Ends the list: these are the runs that the block's rows attend in this KV head. Nothing if it is empty. sum_values:
  // their values are to be added up, too.
  void EndList(const QueryBlock& block, uint32_t kv_head, bool sum_values);
  // The same for several blocks, none of one row, that attend the same runs. There must be room for their items.
  void EndSharedList(absl::Span<const QueryBlock> blocks, uint32_t kv_head, bool sum_values);

  absl::Span<const DeviceRun> runs() const { return absl::MakeConstSpan(runs_).first(run_count_); }
  const std::vector<AttendItem>& few() const { return few_; }    // of AttendFew
  const std::vector<AttendItem>& many() const { return many_; }  // of AttendMany
  const std::vector<MergeItem>& merges() const { return merges_; }
  const std::vector<AttendItem>& sums() const { return sums_; }  // of SumValues

 private:
  uint32_t Queries(const QueryBlock& block) const { return block.rows * geometry_.queries_per_kv_head(); }
  uint32_t MostItems(const QueryBlock& block) const;
  // Runs that are left where so many items more are to come.
  uint32_t RoomBeside(uint64_t items) const {
    return few_.size() + many_.size() + items <= limits_.items ? limits_.runs - run_count_ : 0;
  }
  uint32_t PartsOf(const QueryBlock& block) const;
  void AddSums(const QueryBlock& block, uint32_t kv_head);
  void AddItems(const QueryBlock& block, uint32_t kv_head, uint32_t first_run, uint32_t runs, uint32_t part);

  const KvGeometry geometry_;
  const AttendBatchLimits limits_;
  std::vector<DeviceRun> runs_;  // [limits.runs], of which run_count_ are filled
  uint32_t run_count_ = 0;
  std::vector<AttendItem> few_, many_, sums_;
  std::vector<MergeItem> merges_;
  uint32_t list_begin_ = 0;   // of the list that is being made
  uint32_t list_keys_ = 0;
  uint32_t part_states_ = 0;  // taken
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_ATTEND_BATCH_H_
