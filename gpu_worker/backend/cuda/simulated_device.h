// A device on the host, for tests: memory of a fixed size that the host cannot touch, streams whose work is done as
// late (or as early) as their dependencies allow, kernels on the emulator. A wait that is missing makes wrong results.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_SIMULATED_DEVICE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_SIMULATED_DEVICE_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gpu_worker/backend/cuda/device.h"

namespace hga {

enum class SimulatedF8Gemm { kNone, kRight, kRefused, kWrong };

struct SimulatedDeviceOptions {
  uint64_t bytes = uint64_t{256} << 20;
  uint64_t seed = 0;          // order of a kernel's threads, see emulator::RunGrid
  bool early_copies = false;  // the copy stream's work is done at once where it may be; else when somebody waits for it
  bool has_gemm = true;
  SimulatedF8Gemm f8_gemm = SimulatedF8Gemm::kNone;
  bool maps_all_memory = false;  // as if all of the host's memory were registered
  uint32_t multiprocessors = 4;
};

// One thread, RegisterHost and UnregisterHost included. What is wrong in an access (a copy outside of an allocation,
// memory that is not mapped) is INTERNAL, and all later calls with it, as on a real device.
class SimulatedDevice : public Device {
 public:
  explicit SimulatedDevice(const SimulatedDeviceOptions& options);
  ~SimulatedDevice() override;

  std::string name() const override { return "simulated device"; }
  uint32_t multiprocessors() const override { return options_.multiprocessors; }
  size_t free_bytes() const override { return options_.bytes - used_; }
  absl::StatusOr<void*> Allocate(size_t bytes) override;
  void Free(void* memory) override;
  absl::StatusOr<void*> AllocatePinned(size_t bytes) override;
  void FreePinned(void* memory) override;
  absl::Status RegisterHost(const void* memory, size_t bytes) override;
  void UnregisterHost(const void* memory) override;
  MappedMemory MappedAround(const void* memory) const override;
  absl::Status CopyToDevice(DeviceStream stream, void* to, const void* from, size_t bytes) override;
  absl::Status CopyToHost(DeviceStream stream, void* to, const void* from, size_t bytes) override;
  absl::StatusOr<DeviceEvent> NewEvent() override;
  absl::Status Record(DeviceEvent event, DeviceStream stream) override;
  absl::Status Wait(DeviceStream stream, DeviceEvent event) override;
  absl::Status Synchronize(DeviceEvent event) override;
  absl::Status Synchronize(DeviceStream stream) override;
  absl::Status BeginCapture(DeviceStream stream) override;
  absl::StatusOr<DeviceGraph> EndCapture() override;
  absl::Status LaunchGraph(DeviceStream stream, DeviceGraph graph) override;
  bool has_gemm() const override { return options_.has_gemm; }
  void SetGemmWorkspace(void*, size_t) override {}
  absl::Status Gemm(DeviceStream stream, const GemmCall& call) override;
  bool has_f8_gemm() const override { return options_.f8_gemm != SimulatedF8Gemm::kNone; }
  absl::Status F8Gemm(DeviceStream stream, const F8GemmCall& call) override;

  // Most that was allocated at a time.
  uint64_t peak_bytes() const { return peak_; }
  // Graphs that were launched so far, and kernels outside of graphs.
  uint64_t graph_launches() const { return graph_launches_; }
  uint64_t kernel_launches() const { return kernel_launches_; }
  uint64_t f8_gemms() const { return f8_gemms_; }

 protected:
  absl::Status LaunchKernel(DeviceStream stream, KernelId kernel, const LaunchShape& shape, const void* args,
                            size_t bytes) override;

 private:
  struct Mark {
    DeviceStream stream = DeviceStream::kCompute;
    uint64_t work = 0;  // done once so many of the stream's pieces of work are
  };
  struct Stream {
    std::deque<std::function<absl::Status()>> work;
    uint64_t done = 0;
    uint64_t given() const { return done + work.size(); }
  };
  Stream& At(DeviceStream stream) { return streams_[static_cast<size_t>(stream)]; }
  absl::Status Give(DeviceStream stream, std::function<absl::Status()> work);
  absl::Status RunUntil(const Mark& mark);
  void SetAccess(bool open);
  absl::Status CheckOnDevice(const void* memory, size_t bytes) const;
  absl::Status CheckGather(const GatherArgs& args) const;

  const SimulatedDeviceOptions options_;
  uint8_t* base_ = nullptr;
  size_t reserved_ = 0;
  int open_ = 0;                              // how deep in work that may touch device memory
  std::map<uint64_t, uint64_t> allocations_;  // offset to bytes
  uint64_t used_ = 0, peak_ = 0;
  std::map<uintptr_t, size_t> mapped_;  // host memory that kernels can read
  std::map<void*, std::unique_ptr<uint8_t[]>> pinned_;
  std::array<Stream, kDeviceStreams> streams_;
  std::vector<Mark> events_;
  using Work = std::function<absl::Status()>;
  std::optional<DeviceStream> capturing_;
  std::vector<std::vector<Work>> graphs_;  // the last one is being recorded while something is
  uint64_t graph_launches_ = 0, kernel_launches_ = 0, f8_gemms_ = 0;
  absl::Status error_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_SIMULATED_DEVICE_H_
