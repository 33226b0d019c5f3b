#include "gpu_worker/backend/cuda/cuda_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {
namespace {

constexpr uint32_t kGatherThreads = 128, kMergeThreads = 64, kSumThreads = 256;

size_t RoundUp(size_t bytes) { return (bytes + 15) / 16 * 16; }

// Behind what is there already, on 16 bytes; returns where.
template <typename T>
size_t Pack(const std::vector<T>& from, uint8_t* to, size_t* used) {
  const size_t at = *used;
  std::memcpy(to + at, from.data(), from.size() * sizeof(T));
  *used = RoundUp(at + from.size() * sizeof(T));
  return at;
}

size_t BytesOfDescriptors(const AttendBatchLimits& b) {
  return b.runs * (sizeof(DeviceRun) + sizeof(GatherEntry)) + b.items * (3 * sizeof(AttendItem) + sizeof(MergeItem)) +
         6 * 16;
}

// Most that one run takes of the window, or of the staging buffer.
size_t MostBytes(const KvGeometry& g, const CudaAttentionOptions& o, uint32_t tokens) {
  return 2 * (size_t{tokens + 2 * o.tier_unit_tokens} * g.head_dim * sizeof(bf16) + 16 * (size_t{tokens} + 1));
}

DeviceTierOptions TierOptions(const KvGeometry& g, const CudaAttentionOptions& o) {
  DeviceTierOptions tier;
  const uint64_t slot = uint64_t{o.tier_unit_tokens} * g.head_dim * 2 * sizeof(bf16);
  tier.slots = static_cast<uint32_t>(std::min<uint64_t>(o.tier_bytes / slot, DeviceTier::kNoSlot - 1));
  tier.units_per_block = g.kv_heads * (g.chunk_tokens / o.tier_unit_tokens);
  tier.policy = o.tier_policy;
  return tier;
}

}  // namespace

CudaAttention::CudaAttention(Device* device, const KvGeometry& geometry, const CudaAttentionOptions& options)
    : device_(device), geometry_(geometry), options_(options),
      slot_elements_(size_t{options.tier_unit_tokens} * geometry.head_dim * 2), tier_(TierOptions(geometry, options)),
      list_(geometry, options.batch), taken_rows_(options.max_rows) {}

uint64_t CudaAttention::WindowBytes(const KvGeometry& geometry, const CudaAttentionOptions& options) {
  return 2 * (DeviceBytes(BytesOfDescriptors(options.batch)) + DeviceBytes(options.window_bytes));
}

uint64_t CudaAttention::TierBytes(const KvGeometry& geometry, const CudaAttentionOptions& options) {
  const uint64_t slot = uint64_t{options.tier_unit_tokens} * geometry.head_dim * 2 * sizeof(bf16);
  return DeviceBytes(TierOptions(geometry, options).slots * slot);
}

absl::StatusOr<std::unique_ptr<CudaAttention>> CudaAttention::Create(Device* device, DeviceMemory* memory,
                                                                     const KvGeometry& geometry,
                                                                     const CudaAttentionOptions& options) {
  if (options.tier_unit_tokens == 0 || geometry.group_tokens % options.tier_unit_tokens != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a unit of the device tier of ", options.tier_unit_tokens,
                                                   " tokens; it must divide a group of ", geometry.group_tokens));
  }
  if (geometry.head_dim > kFewHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat("cuda backend: heads of ", geometry.head_dim, " elements, at most ",
                                                   kFewHeadDim, " work"));
  }
  if (options.window_bytes < MostBytes(geometry, options, geometry.group_tokens) ||
      options.batch.runs < 2 * geometry.group_tokens) {
    return absl::InvalidArgumentError("the window has no room for one group");
  }
  std::unique_ptr<CudaAttention> attention(new CudaAttention(device, geometry, options));
  HGA_RETURN_IF_ERROR(attention->Allocate(memory));
  HGA_RETURN_IF_ERROR(attention->BeginBatch());
  return attention;
}

absl::Status CudaAttention::Allocate(DeviceMemory* memory) {
  for (Launch& launch : launches_) {
    HGA_ASSIGN_OR_RETURN(launch.descriptors, PinnedBuffer::Allocate(device_, BytesOfDescriptors(options_.batch)));
    HGA_ASSIGN_OR_RETURN(launch.staging, PinnedBuffer::Allocate(device_, options_.window_bytes));
    HGA_ASSIGN_OR_RETURN(launch.on_device, memory->Allocate(DeviceUse::kWindow, BytesOfDescriptors(options_.batch)));
    HGA_ASSIGN_OR_RETURN(launch.window, memory->Allocate(DeviceUse::kWindow, options_.window_bytes));
    HGA_ASSIGN_OR_RETURN(launch.ready, device_->NewEvent());
    HGA_ASSIGN_OR_RETURN(launch.done, device_->NewEvent());
  }
  HGA_ASSIGN_OR_RETURN(tier_memory_, memory->Allocate(DeviceUse::kTier, TierBytes(geometry_, options_)));
  return absl::OkStatus();
}

// Waits until the launch before the last has been done: its buffers are used again, and what it read of the tier may be
// overwritten.
absl::Status CudaAttention::BeginBatch() {
  HGA_RETURN_IF_ERROR(device_->Synchronize(launches_[batch_ % 2].done));
  list_.Clear();
  entries_.clear();
  in_window_.clear();
  std::fill(taken_rows_.begin(), taken_rows_.end(), false);
  window_used_ = staging_used_ = 0;
  return absl::OkStatus();
}

// A row's states are one block's in a launch.
absl::Status CudaAttention::StartBlock(const QueryBlock& block, const Workspace& w) {
  const auto first = taken_rows_.begin() + block.first_row;
  if (std::find(first, first + block.rows, true) != first + block.rows) HGA_RETURN_IF_ERROR(Submit(w));
  std::fill_n(first, block.rows, true);
  return absl::OkStatus();
}

absl::Status CudaAttention::Attend(uint32_t layer, const AttendPlan& plan, const Workspace& w) {
  for (const QueryBlock& block : plan.blocks) {
    HGA_RETURN_IF_ERROR(StartBlock(block, w));
    for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
      HGA_RETURN_IF_ERROR(AttendList(layer, block, head, plan.sum_values, w));
    }
  }
  return list_.empty() ? absl::OkStatus() : Submit(w);
}

absl::Status CudaAttention::AttendList(uint32_t layer, const QueryBlock& block, uint32_t kv_head, bool sum_values,
                                       const Workspace& w) {
  for (const KvRun& run : block.runs[kv_head]) {
    if (AddRun(layer, block, kv_head, run)) continue;
    list_.EndList(block, kv_head, sum_values);
    HGA_RETURN_IF_ERROR(Submit(w));
    HGA_RETURN_IF_ERROR(StartBlock(block, w));
    if (!AddRun(layer, block, kv_head, run)) return absl::InternalError("cuda backend: no room for one run");
  }
  list_.EndList(block, kv_head, sum_values);
  return absl::OkStatus();
}

bool CudaAttention::AddRun(uint32_t layer, const QueryBlock& block, uint32_t kv_head, const KvRun& run) {
  const size_t bytes = MostBytes(geometry_, options_, run.tokens);
  const uint32_t pieces = (run.tokens + options_.tier_unit_tokens - 1) / options_.tier_unit_tokens + 1;
  const bool room = list_.HasRoom(block, pieces) && entries_.size() + pieces <= options_.batch.runs &&
                    window_used_ + bytes <= options_.window_bytes && staging_used_ + bytes <= options_.window_bytes;
  if (!room) return false;
  const uint32_t chunk = run.position / geometry_.chunk_tokens;
  const bool keep = chunk < block.finished.size() && tier_.slots() > 0;
  if (!keep) {
    AddToWindow({run.k, run.v, run.position, run.tokens, run.first_row});
    return true;
  }
  const uint32_t unit = options_.tier_unit_tokens;
  for (uint32_t done = 0; done < run.tokens;) {
    const uint32_t now = std::min(unit - (run.position + done) % unit, run.tokens - done);
    const size_t offset = size_t{done} * geometry_.head_dim;
    AddToTier({block.finished[chunk], layer}, kv_head,
              {run.k + offset, run.v + offset, run.position + done, now, run.first_row});
    done += now;
  }
  return true;
}

const bf16* CudaAttention::Source(const bf16* memory, size_t bytes) {
  if (const void* mapped = device_->Mapped(memory, bytes); mapped != nullptr) return static_cast<const bf16*>(mapped);
  uint8_t* to = launches_[batch_ % 2].staging.as() + staging_used_;
  std::memcpy(to, memory, bytes);
  staging_used_ = RoundUp(staging_used_ + bytes);
  return static_cast<const bf16*>(device_->Mapped(to, bytes));
}

void CudaAttention::AddToTier(const BlockName& name, uint32_t kv_head, const Piece& piece) {
  const uint32_t unit = options_.tier_unit_tokens, d = geometry_.head_dim;
  const uint32_t in_chunk = piece.position % geometry_.chunk_tokens;
  const DeviceTier::Place place =
      tier_.Use(name, kv_head * (geometry_.chunk_tokens / unit) + in_chunk / unit, batch_);
  if (place.slot == DeviceTier::kNoSlot) return AddToWindow(piece);
  bf16* keys = tier_memory_.as<bf16>() + place.slot * slot_elements_;
  bf16* values = keys + slot_elements_ / 2;
  const size_t in_unit = size_t{in_chunk % unit} * d;
  if (place.hit) {
    use_.hit_bytes += 2 * PieceBytes(piece.tokens);
  } else {  // the whole of it: a block that does not change any more has all of its tokens
    const size_t bytes = PieceBytes(unit);
    entries_.push_back({Source(piece.k - in_unit, bytes), Source(piece.v - in_unit, bytes), keys, values, unit * d, 0});
    use_.fetched_bytes += 2 * bytes;
  }
  list_.Add({keys + in_unit, values + in_unit, piece.position, 0, static_cast<uint16_t>(piece.tokens), piece.first_row,
             0});
}

void CudaAttention::AddToWindow(const Piece& piece) {
  InWindow& there = in_window_[piece.k];
  if (there.tokens < piece.tokens) {  // not there, or too little of it
    const size_t bytes = PieceBytes(piece.tokens);
    uint8_t* to = launches_[batch_ % 2].window.as() + window_used_;
    there.k = reinterpret_cast<bf16*>(to);
    there.v = reinterpret_cast<bf16*>(to + RoundUp(bytes));
    there.tokens = piece.tokens;
    window_used_ += 2 * RoundUp(bytes);
    entries_.push_back({Source(piece.k, bytes), Source(piece.v, bytes), there.k, there.v,
                        piece.tokens * geometry_.head_dim, 0});
    use_.fetched_bytes += 2 * bytes;
  }
  list_.Add({there.k, there.v, piece.position, 0, static_cast<uint16_t>(piece.tokens), piece.first_row, 0});
}

absl::Status CudaAttention::Submit(const Workspace& w) {
  Launch& launch = launches_[batch_ % 2];
  uint8_t* pinned = launch.descriptors.as();
  size_t used = 0;
  std::vector<size_t> offsets;
  offsets.push_back(Pack(entries_, pinned, &used));
  offsets.push_back(Pack(list_.runs(), pinned, &used));
  offsets.push_back(Pack(list_.few(), pinned, &used));
  offsets.push_back(Pack(list_.many(), pinned, &used));
  offsets.push_back(Pack(list_.merges(), pinned, &used));
  offsets.push_back(Pack(list_.sums(), pinned, &used));
  const uint8_t* descriptors = launch.on_device.as();
  if (used > 0) {
    HGA_RETURN_IF_ERROR(device_->CopyToDevice(DeviceStream::kCopy, launch.on_device.as(), pinned, used));
  }
  if (!entries_.empty()) {
    const auto count = static_cast<uint32_t>(entries_.size()), warps = kGatherThreads / 32;
    HGA_RETURN_IF_ERROR(device_->Launch(
        DeviceStream::kCopy, {(count + warps - 1) / warps, 1, kGatherThreads, 0},
        GatherArgs{reinterpret_cast<const GatherEntry*>(descriptors + offsets[0]), count}));
  }
  HGA_RETURN_IF_ERROR(device_->Record(launch.ready, DeviceStream::kCopy));
  HGA_RETURN_IF_ERROR(device_->Wait(DeviceStream::kCompute, launch.ready));
  HGA_RETURN_IF_ERROR(LaunchKernels(w, descriptors, offsets));
  HGA_RETURN_IF_ERROR(device_->Record(launch.done, DeviceStream::kCompute));
  ++batch_;
  return BeginBatch();
}

absl::Status CudaAttention::LaunchKernels(const Workspace& w, const uint8_t* descriptors,
                                          const std::vector<size_t>& offsets) {
  const uint32_t d = geometry_.head_dim, heads = geometry_.query_heads, per_head = geometry_.queries_per_kv_head();
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  const auto* runs = reinterpret_cast<const DeviceRun*>(descriptors + offsets[1]);
  if (!list_.few().empty()) {
    const auto* items = reinterpret_cast<const AttendItem*>(descriptors + offsets[2]);
    HGA_RETURN_IF_ERROR(device_->Launch(
        DeviceStream::kCompute, {static_cast<uint32_t>(list_.few().size()), 1, kFewThreads, FewSharedBytes(d)},
        AttendFewArgs{w.q, w.positions, items, runs, w.m, w.l, w.o, heads, per_head, d, scale}));
  }
  if (!list_.many().empty()) {
    const auto* items = reinterpret_cast<const AttendItem*>(descriptors + offsets[3]);
    HGA_RETURN_IF_ERROR(device_->Launch(
        DeviceStream::kCompute, {static_cast<uint32_t>(list_.many().size()), 1, kManyThreads, ManySharedBytes(d)},
        AttendManyArgs{w.q_bf16, w.positions, items, runs, w.m, w.l, w.o, heads, per_head, d, scale}));
  }
  if (!list_.sums().empty()) {
    HGA_RETURN_IF_ERROR(LaunchSums(w, runs, reinterpret_cast<const AttendItem*>(descriptors + offsets[5])));
  }
  if (list_.merges().empty()) return absl::OkStatus();
  const auto* merges = reinterpret_cast<const MergeItem*>(descriptors + offsets[4]);
  return device_->Launch(DeviceStream::kCompute,
                         {per_head, static_cast<uint32_t>(list_.merges().size()), kMergeThreads, 0},
                         MergePartsArgs{merges, w.m, w.l, w.o, d});
}

absl::Status CudaAttention::LaunchSums(const Workspace& w, const DeviceRun* runs, const AttendItem* items) {
  uint32_t most_rows = 0;
  for (const AttendItem& item : list_.sums()) most_rows = std::max(most_rows, item.queries);
  const uint32_t d = geometry_.head_dim, shared = kSumThreads / 32 * (d + 1) * 4;
  return device_->Launch(
      DeviceStream::kCompute, {static_cast<uint32_t>(list_.sums().size()), most_rows, kSumThreads, shared},
      SumValuesArgs{w.positions, items, runs, w.value_sums, w.value_counts, geometry_.kv_heads, d});
}

}  // namespace hga
