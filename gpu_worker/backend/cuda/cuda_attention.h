// Exact attention on the device over K/V that lies in the host's memory: what the device tier lacks is brought by one
// gather for each launch, on the copy stream, while the compute stream still works on what it was given before.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_CUDA_ATTENTION_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_CUDA_ATTENTION_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/attend_batch.h"
#include "gpu_worker/backend/cuda/device_memory.h"
#include "gpu_worker/backend/cuda/device_tier.h"
#include "gpu_worker/backend/cuda/workspace.h"

namespace hga {

// Runs and descriptors begin on 16 bytes.
inline size_t RoundUp16(size_t bytes) { return (bytes + 15) / 16 * 16; }

struct CudaAttentionOptions {
  uint32_t max_rows = 0;
  // Most K/V of one launch: there is room for all of it, should the device tier keep nothing. Twice. Twice
  // tier_unit_tokens times as much is pinned on the host, for memory that is not registered.
  uint64_t window_bytes = uint64_t{16} << 20;
  // Rounded down to whole slots.
  uint64_t tier_bytes = 0;
  // A power of two that divides group_tokens. Selections are single keys, so large units bring and keep mostly what
  // nobody asked for; the table costs the same for each unit, however small (docs/gpu.md).
  uint32_t tier_unit_tokens = 4;
  // Decoding rows read K/V where it lies in the host's memory, if that is registered, or, of int8, have it brought to
  // the window, and leave the tier alone: a look-up for each unit takes the host longer than the bus takes for the keys
  // (docs/gpu.md).
  bool in_place = true;
  AttendBatchLimits batch;
};

// Step thread only.
class CudaAttention {
 public:
  // Device memory that Create takes, by what for.
  static uint64_t WindowBytes(const KvGeometry& geometry, const CudaAttentionOptions& options);
  static uint64_t TierBytes(const KvGeometry& geometry, const CudaAttentionOptions& options);
  // INVALID_ARGUMENT: options; RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<CudaAttention>> Create(Device* device, DeviceMemory* memory,
                                                               const KvGeometry& geometry,
                                                               const CudaAttentionOptions& options);

  void BeginStep() { tier_.BeginStep(); }
  // What the step's rows themselves add to a layer is on the device: kv: [kv_heads][2][rows][head_dim]. It is read from
  // there, not from `rows`, until the next call; no rows: nothing is.
  void SetOwnRows(absl::Span<const KvRow> rows, const bf16* kv);
  // Merges the plan's runs into the states in `w`, of a step of so many rows. The plan must be sound. Its K/V has been
  // read when what the compute stream was given has been done. How the runs are shared out over launches, and so every
  // bit of the result, depends on the plan alone, not on what the tier holds.
  absl::Status Attend(uint32_t layer, const AttendPlan& plan, const Workspace& w);
  // Brings what the tier lacks of the plan's finished chunks, as far as it has room and the memory is registered. Read
  // once WaitForPrefetch has returned.
  absl::Status Prefetch(uint32_t layer, const AttendPlan& plan);
  absl::Status WaitForPrefetch() { return device_->Synchronize(prefetch_.done); }

  const DeviceTierUse& use() const { return use_; }

 private:
  // What a launch reads, in two sets: one is filled while the device works on the other.
  struct Launch {
    PinnedBuffer descriptors, staging;
    DeviceBuffer on_device;  // descriptors
    DeviceBuffer window;
    DeviceEvent ready, done;
  };
  struct PrefetchBuffers {
    PinnedBuffer descriptors;
    DeviceBuffer on_device;
    DeviceEvent done;
  };
  // Consecutive tokens of one block that rows of this step write: [first_token, first_token + tokens).
  struct OwnRows {
    const uint8_t* block;
    uint32_t first_token, tokens, first_row;
  };
  // Where a run that the tier does not keep lies in the window.
  struct InWindow {
    bf16 *k, *v;
    uint32_t tokens;
  };
  // Where a run lies, as the tier names it.
  struct RunPlace {
    uint32_t chunk;  // its number, if it is kept
    uint32_t first;  // token in the chunk
    uint32_t unit;   // of its first token, in its block
    bool kept;       // by the tier
  };
  // Some consecutive keys of one run, in one unit of the tier.
  struct Piece {
    const uint8_t *k, *v;
    uint32_t position, tokens;
    uint16_t first_row;
  };

  CudaAttention(Device* device, const KvGeometry& geometry, const CudaAttentionOptions& options);
  absl::Status Allocate(DeviceMemory* memory);
  static const uint8_t* Keys(const KvRun& run) { return static_cast<const uint8_t*>(run.k); }
  static const uint8_t* Values(const KvRun& run) { return static_cast<const uint8_t*>(run.v); }
  // Keys, or values, of so many tokens on the device.
  size_t PieceBytes(uint32_t tokens) const { return size_t{tokens} * geometry_.head_dim * sizeof(bf16); }
  // What is read of the host's memory from their keys on, as from their values on, and in all: of int8 values lie
  // among the keys.
  size_t RowsBytes(uint32_t tokens) const { return tokens * row_bytes_; }
  size_t BusBytes(uint32_t tokens) const { return (int8_ ? 1 : 2) * RowsBytes(tokens); }
  const OwnRows* FindOwn(const void* k) const;
  bool TierKeeps(const QueryBlock& block, uint32_t chunk) const {
    return chunk < block.finished.size() && tier_.slots() > 0;
  }
  absl::Status BeginBatch();
  absl::Status StartBlock(const QueryBlock& block, const Workspace& w);
  // The first `runs` runs of all lists of `blocks`, which are the same in all of them: brought slice by slice, once for
  // all blocks, and not kept. Returns how many, fewer where a launch has no room for the next one of each KV head.
  absl::StatusOr<uint32_t> AttendShared(absl::Span<const QueryBlock> blocks, uint32_t runs, bool sum_values,
                                        const Workspace& w);
  // How many of the runs [first, runs) of each KV head a launch may bring for these blocks.
  uint32_t SliceRuns(absl::Span<const QueryBlock> blocks, uint32_t first, uint32_t runs) const;
  void AddShared(const KvRun& run);
  // The runs of a list from `first_run` on.
  absl::Status AttendList(uint32_t layer, const QueryBlock& block, uint32_t kv_head, uint32_t first_run,
                          bool sum_values, const Workspace& w);
  // False: this launch has no room for it.
  bool AddRun(uint32_t layer, const QueryBlock& block, uint32_t kv_head, const KvRun& run, const RunPlace& place);
  void PlaceRuns(uint32_t layer, const QueryBlock& block, uint32_t kv_head, uint32_t first_run);
  // The piece, in unit `unit` of its block, of a chunk by its number in the tier.
  void AddToTier(uint32_t layer, uint32_t chunk, uint32_t unit, const Piece& piece);
  void AddToWindow(const Piece& piece);
  // The window's next place for so many tokens.
  InWindow PlaceInWindow(uint32_t tokens);
  // Has the gather bring so many tokens of a run to the window of this launch.
  InWindow BringToWindow(const uint8_t* k, const uint8_t* v, uint32_t tokens);
  // Of a decoding row's runs the first ones, as they lie in the host's memory or, of int8, in the window, up to one
  // that a kernel cannot read there or has nearer, or for which there is no room. Returns how many.
  uint32_t AddInPlace(const QueryBlock& block, absl::Span<const KvRun> runs);
  // A piece that the tier does not keep: what is own, where it lies on the device, the rest in the window.
  void AddUnfinished(uint32_t kv_head, const Piece& piece);
  // An entry that brings the whole unit around `piece` into a slot.
  GatherEntry UnitEntry(const uint8_t* k, const uint8_t* v, uint32_t slot) const;
  bool PrefetchRun(uint32_t layer, const QueryBlock& block, uint32_t kv_head, const KvRun& run);
  absl::Status LaunchGather(const uint8_t* entries, size_t count);
  // The arena is one piece of memory: it is looked for once.
  const void* Mapped(const void* memory, size_t bytes) {
    if (const void* found = mapped_.Find(memory, bytes); found != nullptr) return found;
    mapped_ = device_->MappedAround(memory);
    return mapped_.Find(memory, bytes);
  }
  // Where the device reads `bytes` of the host's: in place, or in the staging buffer.
  const uint8_t* Source(const uint8_t* memory, size_t bytes);
  // Where it reads keys and values of so many tokens.
  std::pair<const uint8_t*, const uint8_t*> Sources(const uint8_t* k, const uint8_t* v, uint32_t tokens);
  absl::Status Submit(const Workspace& w);
  absl::Status LaunchKernels(const Workspace& w, const uint8_t* descriptors, const std::vector<size_t>& offsets);
  absl::Status LaunchSums(const Workspace& w, const DeviceRun* runs, const AttendItem* items);

  // Constant after construction.
  Device* const device_;
  const KvGeometry geometry_;
  const CudaAttentionOptions options_;
  const bool int8_;              // what blocks hold; on the device there is bf16
  const size_t row_bytes_;       // from one token to the next in a block
  const size_t slot_elements_;   // of a tier slot: keys, then values
  const uint32_t unit_shift_;    // a unit has 1 << unit_shift_ tokens
  const uint32_t head_units_;    // units of one KV head in a block

  DeviceTier tier_;
  DeviceBuffer tier_memory_;
  Launch launches_[2];
  PrefetchBuffers prefetch_;
  std::vector<OwnRows> own_;
  const bf16* own_kv_ = nullptr;  // on the device
  uint32_t own_count_ = 0;        // rows
  uint64_t batch_ = 1;  // number of the launch that is being put together
  AttendBatch list_;
  std::vector<GatherEntry> entries_;
  MappedMemory mapped_;  // in which the last source was found, of the Attend or Prefetch at hand
  std::vector<RunPlace> places_;  // of the runs of the list at hand
  size_t room_used_ = 0;  // of the window, should the tier keep nothing
  size_t window_used_ = 0, staging_used_ = 0;
  absl::flat_hash_map<const uint8_t*, InWindow> in_window_;  // by the host's keys
  std::vector<bool> taken_rows_;                             // [max_rows]: a block of this launch has the row
  DeviceTierUse use_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_CUDA_ATTENTION_H_
