// Brings a model's weights to the device. FP8 stays as it is, with its scales; every other type becomes bf16 there, and
// vectors become float.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_WEIGHT_LOADER_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_WEIGHT_LOADER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gpu_worker/backend/cuda/device_memory.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// Device memory of a matrix, or of a stack of equal ones, and of a vector, as the allocator counts.
uint64_t MatrixDeviceBytes(const TensorView& matrix, uint64_t count = 1);
uint64_t VectorDeviceBytes(const TensorView& vector);

// A stack of matrices on the device.
struct LoadedMatrix {
  MatrixPart part;
  DeviceBuffer data, scales;
};

class WeightLoader {
 public:
  // All must outlive it. RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<WeightLoader>> Create(Device* device, DeviceMemory* memory);

  // Matrices of the same type and shape, one behind the other. RESOURCE_EXHAUSTED, INVALID_ARGUMENT: they differ.
  absl::StatusOr<LoadedMatrix> Matrices(absl::Span<const TensorView> matrices);
  absl::StatusOr<LoadedMatrix> Matrix(const TensorView& matrix) { return Matrices({matrix}); }
  // Vectors one behind the other, as floats; absent ones take no room.
  absl::StatusOr<DeviceBuffer> Vectors(absl::Span<const TensorView> vectors);

 private:
  explicit WeightLoader(Device* device, DeviceMemory* memory) : device_(device), memory_(memory) {}
  absl::Status CopyRows(const TensorView& matrix, uint8_t* to);
  absl::Status Copy(const void* from, size_t bytes, uint8_t* to);
  // The next of two pinned buffers, once the copy from it has been done.
  absl::StatusOr<uint8_t*> NextBuffer();

  Device* const device_;
  DeviceMemory* const memory_;
  PinnedBuffer buffers_[2];
  DeviceEvent copied_[2];
  uint32_t next_ = 0;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_WEIGHT_LOADER_H_
