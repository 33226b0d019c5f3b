#include "gpu_worker/backend/cuda/device_memory.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace hga {

const char* DeviceUseName(DeviceUse use) {
  constexpr const char* kNames[kDeviceUses] = {"weights", "workspace", "window", "device tier", "summaries"};
  return kNames[static_cast<size_t>(use)];
}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  owner_ = std::exchange(other.owner_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  use_ = other.use_;
  return *this;
}

void DeviceBuffer::Reset() {
  if (owner_ != nullptr) owner_->Give(use_, data_, bytes_);
  owner_ = nullptr;
  data_ = nullptr;
  bytes_ = 0;
}

absl::StatusOr<DeviceBuffer> DeviceMemory::Allocate(DeviceUse use, uint64_t bytes) {
  DeviceBuffer buffer;
  if (bytes == 0) return buffer;
  if (bytes > limit_ - used_ || DeviceBytes(bytes) > limit_ - used_) {
    return absl::ResourceExhaustedError(absl::StrCat("device memory: ", bytes, " bytes more for ", DeviceUseName(use),
                                                     ", but ", used_, " of ", limit_, " are taken"));
  }
  auto data = device_->Allocate(DeviceBytes(bytes));
  if (!data.ok()) return data.status();
  buffer.owner_ = this;
  buffer.data_ = *data;
  buffer.bytes_ = DeviceBytes(bytes);
  buffer.use_ = use;
  used_ += buffer.bytes_;
  by_use_[static_cast<size_t>(use)] += buffer.bytes_;
  return buffer;
}

void DeviceMemory::Give(DeviceUse use, void* data, uint64_t bytes) {
  device_->Free(data);
  used_ -= bytes;
  by_use_[static_cast<size_t>(use)] -= bytes;
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Allocate(Device* device, size_t bytes) {
  auto data = device->AllocatePinned(bytes == 0 ? 1 : bytes);
  if (!data.ok()) return data.status();
  PinnedBuffer buffer;
  buffer.device_ = device;
  buffer.data_ = *data;
  buffer.bytes_ = bytes;
  return buffer;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) device_->FreePinned(data_);
}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace hga
