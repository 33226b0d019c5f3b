// How a launch that has been put together is given to the device.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/status.h"
#include "gpu_worker/backend/cuda/cuda_attention.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {
namespace {

constexpr uint32_t kGatherThreads = 128, kMergeThreads = 64, kSumThreads = 256;

// Behind what is there already, on 16 bytes; returns where.
template <typename T>
size_t Pack(absl::Span<const T> from, uint8_t* to, size_t* used) {
  const size_t at = *used;
  if (!from.empty()) std::memcpy(to + at, from.data(), from.size() * sizeof(T));
  *used = RoundUp16(at + from.size() * sizeof(T));
  return at;
}

}  // namespace

absl::Status CudaAttention::Submit(const Workspace& w) {
  Launch& launch = launches_[batch_ % 2];
  uint8_t* pinned = launch.descriptors.as();
  size_t used = 0;
  std::vector<size_t> offsets;
  offsets.push_back(Pack(absl::MakeConstSpan(entries_), pinned, &used));
  offsets.push_back(Pack(list_.runs(), pinned, &used));
  offsets.push_back(Pack(absl::MakeConstSpan(list_.few()), pinned, &used));
  offsets.push_back(Pack(absl::MakeConstSpan(list_.many()), pinned, &used));
  offsets.push_back(Pack(absl::MakeConstSpan(list_.merges()), pinned, &used));
  offsets.push_back(Pack(absl::MakeConstSpan(list_.sums()), pinned, &used));
  const uint8_t* descriptors = launch.on_device.as();
  if (used > 0) {
    HGA_RETURN_IF_ERROR(device_->CopyToDevice(DeviceStream::kCopy, launch.on_device.as(), pinned, used));
  }
  HGA_RETURN_IF_ERROR(LaunchGather(descriptors + offsets[0], entries_.size()));
  HGA_RETURN_IF_ERROR(device_->Record(launch.ready, DeviceStream::kCopy));
  HGA_RETURN_IF_ERROR(device_->Wait(DeviceStream::kCompute, launch.ready));
  HGA_RETURN_IF_ERROR(LaunchKernels(w, descriptors, offsets));
  HGA_RETURN_IF_ERROR(device_->Record(launch.done, DeviceStream::kCompute));
  ++batch_;
  return BeginBatch();
}

absl::Status CudaAttention::LaunchGather(const uint8_t* entries, size_t entry_count) {
  const auto count = static_cast<uint32_t>(entry_count), warps = kGatherThreads / 32;
  if (count == 0) return absl::OkStatus();
  const uint32_t shared = int8_ ? warps * kGatherStageBytes : 0;
  return device_->Launch(DeviceStream::kCopy, {(count + warps - 1) / warps, 1, kGatherThreads, shared},
                         GatherArgs{reinterpret_cast<const GatherEntry*>(entries), count, geometry_.head_dim, int8_});
}

absl::Status CudaAttention::LaunchKernels(const Workspace& w, const uint8_t* descriptors,
                                          const std::vector<size_t>& offsets) {
  const uint32_t d = geometry_.head_dim, heads = geometry_.query_heads, per_head = geometry_.queries_per_kv_head();
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  const auto* runs = reinterpret_cast<const DeviceRun*>(descriptors + offsets[1]);
  if (!list_.few().empty()) {
    const auto* items = reinterpret_cast<const AttendItem*>(descriptors + offsets[2]);
    HGA_RETURN_IF_ERROR(device_->Launch(
        DeviceStream::kCompute, {static_cast<uint32_t>(list_.few().size()), 1, kFewThreads, kFewSharedBytes},
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
