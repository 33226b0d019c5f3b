// The device's copy of what the router knows, and what selects from it: the part of the CUDA backend that outlives any
// one router. The clients of routers (device_route_client.h) share it.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_ROUTE_MIRROR_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_ROUTE_MIRROR_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/sketch_selector.h"
#include "gpu_worker/backend/cuda/summary_pages.h"

namespace hga {

struct RouteMirrorPlan {
  const SummaryMethod* method = nullptr;  // of the name
  uint32_t chunks = 0;  // whose summaries there is room for; 0: no mirror
  uint64_t bytes = 0;   // that are allocated on the device
};

class RouteMirror {
 public:
  // What fits into `bytes`: summaries, and what selecting from that many takes. method: its name, without a plan.
  // Nothing for one that the selector does not read.
  static RouteMirrorPlan Plan(const KvGeometry& geometry, const std::string& method, uint64_t bytes);
  // nullptr: the plan has none.
  static absl::StatusOr<std::unique_ptr<RouteMirror>> Create(Device* device, DeviceMemory* memory,
                                                             const KvGeometry& geometry, const RouteMirrorPlan& plan);

  // Whether it is for summaries of the method, which is ready for use.
  bool Takes(const SummaryMethod& method) const;
  Device* device() const { return device_; }
  const KvGeometry& geometry() const { return geometry_; }
  SummaryPages& pages() { return *pages_; }
  SketchSelector& selector() { return *selector_; }
  DeviceEvent answered() const { return answered_; }

  // Thread-safe.
  void Count(uint64_t on_device, uint64_t by_router);
  RouteMirrorUse use() const { return {on_device_.load(), by_router_.load()}; }
  // Warns once that there are more summaries than room.
  void NoteNoRoom();

 private:
  RouteMirror(Device* device, const KvGeometry& geometry, const SummaryMethod& method)
      : device_(device), geometry_(geometry), method_(method) {}

  Device* const device_;
  const KvGeometry geometry_;
  const SummaryMethod& method_;  // of the name
  std::unique_ptr<SummaryPages> pages_;
  std::unique_ptr<SketchSelector> selector_;
  DeviceEvent answered_;
  std::atomic<uint64_t> on_device_{0}, by_router_{0};
  std::atomic<bool> no_room_{false};
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_ROUTE_MIRROR_H_
