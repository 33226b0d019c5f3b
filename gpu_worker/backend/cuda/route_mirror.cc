#include "gpu_worker/backend/cuda/route_mirror.h"

#include <algorithm>

#include "common/base/log.h"
#include "common/base/status.h"
#include "common/kv/summary.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {
namespace {

// As many as a sequence has at the router.
constexpr uint64_t kMostChunks = 65536;

uint64_t BytesFor(const KvGeometry& geometry, const SummaryMethod& method, uint64_t chunks) {
  const auto count = static_cast<uint32_t>(chunks);
  return SummaryPages::Bytes(BytesWithExtents(geometry, method), count) +
         SketchSelector::Bytes(geometry, method, count);
}

}  // namespace

RouteMirrorPlan RouteMirror::Plan(const KvGeometry& geometry, const std::string& method_name, uint64_t bytes) {
  const auto method = FindSummaryMethod(method_name);
  if (bytes == 0 || !method.ok() || !SketchSelector::Reads(**method)) return {};
  // Tables of more heads than any model has.
  if (RouteFineSharedBytes(geometry.head_dim, geometry.queries_per_kv_head()) > 48 * 1024) return {};
  uint64_t low = 0, high = std::min(bytes / BytesWithExtents(geometry, **method), kMostChunks) + 1;
  while (high - low > 1) {  // as many as fit: the bytes grow with them
    const uint64_t middle = (low + high) / 2;
    (BytesFor(geometry, **method, middle) <= bytes ? low : high) = middle;
  }
  if (low == 0) return {};
  return {*method, static_cast<uint32_t>(low), BytesFor(geometry, **method, low)};
}

absl::StatusOr<std::unique_ptr<RouteMirror>> RouteMirror::Create(Device* device, DeviceMemory* memory,
                                                                 const KvGeometry& geometry,
                                                                 const RouteMirrorPlan& plan) {
  if (plan.chunks == 0) return std::unique_ptr<RouteMirror>();
  const SummaryMethod& method = *plan.method;
  std::unique_ptr<RouteMirror> mirror(new RouteMirror(device, geometry, method));
  HGA_ASSIGN_OR_RETURN(mirror->pages_,
                       SummaryPages::Create(device, memory, BytesWithExtents(geometry, method), plan.chunks));
  HGA_ASSIGN_OR_RETURN(mirror->selector_, SketchSelector::Create(device, memory, geometry, method, plan.chunks));
  HGA_ASSIGN_OR_RETURN(mirror->answered_, device->NewEvent());
  return mirror;
}

bool RouteMirror::Takes(const SummaryMethod& method) const {
  return SketchSelector::Reads(method) && method.dealt == method_.dealt && method.dealt == (method.plan != nullptr);
}

void RouteMirror::Count(uint64_t on_device, uint64_t by_router) {
  on_device_ += on_device;
  by_router_ += by_router;
}

void RouteMirror::NoteNoRoom() {
  if (no_room_.exchange(true)) return;
  LogWarning("summaries beyond --device_summaries: the router selects for sequences that do not fit",
             {{"chunks", pages_->count()}});
}

}  // namespace hga
