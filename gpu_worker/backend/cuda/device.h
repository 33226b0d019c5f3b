// A GPU as the CUDA backend sees it: memory, streams in order, events between them, kernels and dense GEMM.
// Implementations: nvidia_device.h (the CUDA runtime), simulated_device.h (the host, for tests).
//
// Calls return at once unless they say otherwise; work of one stream runs in the order it was given, work of two
// streams in any order that Wait does not forbid. An error of work that was given earlier may come from any later call.
// Step thread only, but for RegisterHost and UnregisterHost.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/kv/bf16.h"
#include "gpu_worker/backend/cuda/kernels/kernel_list.h"

namespace hga {

// kCopy brings K/V to the device, kToHost takes it from there, kRoute selects keys.
enum class DeviceStream : uint8_t { kCompute, kCopy, kToHost, kRoute };
inline constexpr int kDeviceStreams = 4;

// Work that was recorded, to be done again. From Device::EndCapture; lives as long as the device.
struct DeviceGraph {
  uint32_t id = 0;
};

// A place in a stream that another stream, or the host, can wait for. From Device::NewEvent.
struct DeviceEvent {
  uint32_t id = 0;
};

// y = x W^T, accumulated in float. All on the device.
struct GemmCall {
  const bf16* x = nullptr;  // [rows][cols]
  const bf16* w = nullptr;  // [outputs][cols]
  float* y = nullptr;       // [rows][outputs], y_stride elements from row to row
  uint32_t rows = 0, outputs = 0, cols = 0;
  size_t y_stride = 0;
};

// The same of FP8 (E4M3) with scales: of x for each row and 128 columns, of w for each 128 x 128. cols: a multiple of
// 512; rows and outputs: of 16.
struct F8GemmCall {
  const uint8_t* x = nullptr;       // [rows][cols]
  const float* x_scales = nullptr;  // [cols / 128][rows]
  const uint8_t* w = nullptr;       // [outputs][cols]
  const float* w_scales = nullptr;  // [ceil(outputs / 128)][cols / 128]
  float* y = nullptr;
  uint32_t rows = 0, outputs = 0, cols = 0;
  size_t y_stride = 0;
};

// Memory of the host's that kernels can read: [begin, begin + bytes), and where they find it.
struct MappedMemory {
  const uint8_t* begin = nullptr;
  size_t bytes = 0;
  const uint8_t* on_device = nullptr;

  // nullptr: not all of [memory, memory + size) lies in it.
  const void* Find(const void* memory, size_t size) const {
    const auto offset = reinterpret_cast<uintptr_t>(memory) - reinterpret_cast<uintptr_t>(begin);
    return offset <= bytes && size <= bytes - offset && begin != nullptr ? on_device + offset : nullptr;
  }
};

class Device {
 public:
  virtual ~Device() = default;

  // E.g. "NVIDIA H100 (sm_90)".
  virtual std::string name() const = 0;
  virtual uint32_t multiprocessors() const = 0;
  // Of device memory, right now.
  virtual size_t free_bytes() const = 0;

  // Device memory, aligned to 256 bytes. The host never follows such a pointer. RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<void*> Allocate(size_t bytes) = 0;
  // Waits for work that may use the memory.
  virtual void Free(void* memory) = 0;
  // Host memory that copies and kernels may use. RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<void*> AllocatePinned(size_t bytes) = 0;
  virtual void FreePinned(void* memory) = 0;

  // Makes memory of the host's readable by kernels, until UnregisterHost, which waits for them. Any thread.
  virtual absl::Status RegisterHost(const void* memory, size_t bytes) = 0;
  virtual void UnregisterHost(const void* memory) = 0;
  // The pinned or registered memory that `memory` lies in; none: empty. Good until that is let go.
  virtual MappedMemory MappedAround(const void* memory) const = 0;
  // Where kernels find [memory, memory + bytes): nullptr unless it is pinned or registered.
  const void* Mapped(const void* memory, size_t bytes) const { return MappedAround(memory).Find(memory, bytes); }

  // The host's side is pinned or registered and must not change before the copy has been done.
  virtual absl::Status CopyToDevice(DeviceStream stream, void* to, const void* from, size_t bytes) = 0;
  virtual absl::Status CopyToHost(DeviceStream stream, void* to, const void* from, size_t bytes) = 0;

  virtual absl::StatusOr<DeviceEvent> NewEvent() = 0;
  // The event now stands for all that `stream` was given so far.
  virtual absl::Status Record(DeviceEvent event, DeviceStream stream) = 0;
  // What `stream` is given from now on runs after the event, as it was recorded last; an event never recorded is past.
  virtual absl::Status Wait(DeviceStream stream, DeviceEvent event) = 0;
  // Blocks the caller.
  virtual absl::Status Synchronize(DeviceEvent event) = 0;
  virtual absl::Status Synchronize(DeviceStream stream) = 0;

  // What `stream` is given up to EndCapture, kernels and copies only, is recorded and not done. LaunchGraph does all of
  // it, with the arguments of then. One at a time.
  virtual absl::Status BeginCapture(DeviceStream stream) = 0;
  virtual absl::StatusOr<DeviceGraph> EndCapture() = 0;
  virtual absl::Status LaunchGraph(DeviceStream stream, DeviceGraph graph) = 0;

  template <typename Args>
  absl::Status Launch(DeviceStream stream, const LaunchShape& shape, const Args& args) {
    return LaunchKernel(stream, KernelOf<Args>::id, shape, &args, sizeof(Args));
  }
  // Whether there is a library for Gemm; without one it is never called.
  virtual bool has_gemm() const = 0;
  // Device memory that Gemm may use, for good.
  virtual void SetGemmWorkspace(void* memory, size_t bytes) = 0;
  virtual absl::Status Gemm(DeviceStream stream, const GemmCall& call) = 0;
  // Whether F8Gemm may be tried. Only trying it tells whether the library and the device have it: see f8_probe.h.
  virtual bool has_f8_gemm() const = 0;
  virtual absl::Status F8Gemm(DeviceStream stream, const F8GemmCall& call) = 0;

 protected:
  // args: the kernel's struct of arguments, copied.
  virtual absl::Status LaunchKernel(DeviceStream stream, KernelId kernel, const LaunchShape& shape, const void* args,
                                    size_t bytes) = 0;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_H_
