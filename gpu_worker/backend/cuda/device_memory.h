// Hands out device memory within a limit, and knows what for.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_MEMORY_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_MEMORY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/device.h"

namespace hga {

enum class DeviceUse : uint8_t { kWeights, kWorkspace, kWindow, kTier, kSummaries };
inline constexpr int kDeviceUses = 5;
const char* DeviceUseName(DeviceUse use);

// What an allocation of `bytes` counts for: whole units of 256.
constexpr uint64_t DeviceBytes(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

class DeviceMemory;

// Owns a piece of device memory. Movable; the DeviceMemory must outlive it.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  ~DeviceBuffer() { Reset(); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

  template <typename T = uint8_t>
  T* as() const {
    return static_cast<T*>(data_);
  }
  uint64_t bytes() const { return bytes_; }
  void Reset();

 private:
  friend class DeviceMemory;
  DeviceMemory* owner_ = nullptr;
  void* data_ = nullptr;
  uint64_t bytes_ = 0;
  DeviceUse use_ = DeviceUse::kWorkspace;
};

// One thread. The sum of DeviceBytes over everything that is allocated never exceeds the limit. The driver's context
// and the kernels' code are not in it: nobody can tell their size beforehand.
class DeviceMemory {
 public:
  // device must outlive it.
  DeviceMemory(Device* device, uint64_t limit) : device_(device), limit_(limit) {}

  // RESOURCE_EXHAUSTED: beyond the limit, or the device itself has no more. Zero bytes: an empty buffer.
  absl::StatusOr<DeviceBuffer> Allocate(DeviceUse use, uint64_t bytes);

  uint64_t limit() const { return limit_; }
  uint64_t used() const { return used_; }
  uint64_t used(DeviceUse use) const { return by_use_[static_cast<size_t>(use)]; }

 private:
  friend class DeviceBuffer;
  void Give(DeviceUse use, void* data, uint64_t bytes);

  Device* const device_;
  const uint64_t limit_;
  uint64_t used_ = 0;
  std::array<uint64_t, kDeviceUses> by_use_{};
};

// Pinned host memory. Movable; the device must outlive it.
class PinnedBuffer {
 public:
  static absl::StatusOr<PinnedBuffer> Allocate(Device* device, size_t bytes);
  PinnedBuffer() = default;
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept { *this = std::move(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;

  template <typename T = uint8_t>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_MEMORY_H_
