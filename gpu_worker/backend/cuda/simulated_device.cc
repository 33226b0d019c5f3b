#include "gpu_worker/backend/cuda/simulated_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "gpu_worker/backend/cuda/device_memory.h"
#include "gpu_worker/backend/cuda/emulator/kernels.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {
namespace {

constexpr size_t kPage = 4096;
// Fresh memory: not a number as float and bf16, and no place as an index.
constexpr int kFresh = 0xff;

}  // namespace

SimulatedDevice::SimulatedDevice(const SimulatedDeviceOptions& options)
    : options_(options), reserved_((options.bytes + kPage - 1) / kPage * kPage) {
  void* memory = mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  HGA_CHECK(memory != MAP_FAILED);
  base_ = static_cast<uint8_t*>(memory);
}

SimulatedDevice::~SimulatedDevice() { munmap(base_, reserved_); }

void SimulatedDevice::SetAccess(bool open) {
  open_ += open ? 1 : -1;
  if (open_ != (open ? 1 : 0) || allocations_.empty()) return;
  const uint64_t end = allocations_.rbegin()->first + allocations_.rbegin()->second;
  HGA_CHECK(mprotect(base_, (end + kPage - 1) / kPage * kPage, open ? PROT_READ | PROT_WRITE : PROT_NONE) == 0);
}

absl::StatusOr<void*> SimulatedDevice::Allocate(size_t bytes) {
  const uint64_t size = DeviceBytes(bytes);
  uint64_t offset = 0;
  for (const auto& [start, taken] : allocations_) {
    if (start - offset >= size) break;
    offset = start + taken;
  }
  if (size > options_.bytes || offset > options_.bytes - size) {
    return absl::ResourceExhaustedError(absl::StrCat("out of device memory: ", bytes, " bytes"));
  }
  allocations_[offset] = size;
  used_ += size;
  peak_ = std::max(peak_, used_);
  SetAccess(true);
  std::memset(base_ + offset, kFresh, size);
  SetAccess(false);
  return base_ + offset;
}

void SimulatedDevice::Free(void* memory) {
  for (int s = 0; s < kDeviceStreams; ++s) (void)Synchronize(static_cast<DeviceStream>(s));
  const auto found = allocations_.find(static_cast<uint8_t*>(memory) - base_);
  HGA_CHECK(found != allocations_.end());
  used_ -= found->second;
  allocations_.erase(found);
}

absl::StatusOr<void*> SimulatedDevice::AllocatePinned(size_t bytes) {
  std::unique_ptr<uint8_t[]> memory(new uint8_t[bytes]);
  void* data = memory.get();
  mapped_[reinterpret_cast<uintptr_t>(data)] = bytes;
  pinned_[data] = std::move(memory);
  return data;
}

void SimulatedDevice::FreePinned(void* memory) {
  for (int s = 0; s < kDeviceStreams; ++s) (void)Synchronize(static_cast<DeviceStream>(s));
  mapped_.erase(reinterpret_cast<uintptr_t>(memory));
  pinned_.erase(memory);
}

absl::Status SimulatedDevice::RegisterHost(const void* memory, size_t bytes) {
  mapped_[reinterpret_cast<uintptr_t>(memory)] = bytes;
  return absl::OkStatus();
}

void SimulatedDevice::UnregisterHost(const void* memory) {
  for (int s = 0; s < kDeviceStreams; ++s) (void)Synchronize(static_cast<DeviceStream>(s));
  mapped_.erase(reinterpret_cast<uintptr_t>(memory));
}

MappedMemory SimulatedDevice::MappedAround(const void* memory) const {
  const auto* bytes = static_cast<const uint8_t*>(memory);
  if (options_.maps_all_memory) return {bytes, SIZE_MAX / 2, bytes};
  auto found = mapped_.upper_bound(reinterpret_cast<uintptr_t>(memory));
  if (found == mapped_.begin()) return {};
  --found;
  const auto* begin = reinterpret_cast<const uint8_t*>(found->first);
  return {begin, found->second, begin};
}

absl::Status SimulatedDevice::CheckOnDevice(const void* memory, size_t bytes) const {
  const uint64_t offset = static_cast<const uint8_t*>(memory) - base_;
  auto found = allocations_.upper_bound(offset);
  if (found != allocations_.begin()) {
    --found;
    const uint64_t in = offset - found->first;
    if (in <= found->second && bytes <= found->second - in) return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat("simulated device: ", bytes, " bytes outside of every allocation"));
}

absl::Status SimulatedDevice::Give(DeviceStream stream, std::function<absl::Status()> work) {
  HGA_RETURN_IF_ERROR(error_);
  if (capturing_ == stream) {
    graphs_.back().push_back(std::move(work));
    return absl::OkStatus();
  }
  At(stream).work.push_back(std::move(work));
  if (!options_.early_copies || stream != DeviceStream::kCopy) return absl::OkStatus();
  return RunUntil({stream, At(stream).given()});
}

absl::Status SimulatedDevice::RunUntil(const Mark& mark) {
  Stream& stream = At(mark.stream);
  if (stream.done >= mark.work) return error_;
  SetAccess(true);
  while (error_.ok() && stream.done < mark.work) {
    const std::function<absl::Status()> work = std::move(stream.work.front());
    stream.work.pop_front();
    ++stream.done;
    const absl::Status status = work();
    if (error_.ok()) error_ = status;
  }
  SetAccess(false);
  return error_;
}

absl::Status SimulatedDevice::CopyToDevice(DeviceStream stream, void* to, const void* from, size_t bytes) {
  HGA_RETURN_IF_ERROR(CheckOnDevice(to, bytes));
  if (Mapped(from, bytes) == nullptr) return absl::InternalError("simulated device: a copy from memory not pinned");
  return Give(stream, [to, from, bytes] {
    std::memcpy(to, from, bytes);
    return absl::OkStatus();
  });
}

absl::Status SimulatedDevice::CopyToHost(DeviceStream stream, void* to, const void* from, size_t bytes) {
  HGA_RETURN_IF_ERROR(CheckOnDevice(from, bytes));
  if (Mapped(to, bytes) == nullptr) return absl::InternalError("simulated device: a copy to memory not pinned");
  return Give(stream, [to, from, bytes] {
    std::memcpy(to, from, bytes);
    return absl::OkStatus();
  });
}

absl::StatusOr<DeviceEvent> SimulatedDevice::NewEvent() {
  events_.emplace_back();
  return DeviceEvent{static_cast<uint32_t>(events_.size() - 1)};
}

absl::Status SimulatedDevice::Record(DeviceEvent event, DeviceStream stream) {
  if (capturing_ == stream) return absl::InternalError("simulated device: an event in a capture");
  events_[event.id] = {stream, At(stream).given()};
  return error_;
}

absl::Status SimulatedDevice::Wait(DeviceStream stream, DeviceEvent event) {
  if (capturing_ == stream) return absl::InternalError("simulated device: an event in a capture");
  const Mark mark = events_[event.id];
  return Give(stream, [this, mark] { return RunUntil(mark); });
}

absl::Status SimulatedDevice::Synchronize(DeviceEvent event) { return RunUntil(events_[event.id]); }

absl::Status SimulatedDevice::Synchronize(DeviceStream stream) {
  if (capturing_ == stream) return absl::InternalError("simulated device: a wait in a capture");
  return RunUntil({stream, At(stream).given()});
}

absl::Status SimulatedDevice::BeginCapture(DeviceStream stream) {
  if (capturing_.has_value()) return absl::InternalError("simulated device: a capture within a capture");
  capturing_ = stream;
  graphs_.emplace_back();
  return error_;
}

absl::StatusOr<DeviceGraph> SimulatedDevice::EndCapture() {
  if (!capturing_.has_value()) return absl::InternalError("simulated device: no capture to end");
  capturing_.reset();
  return DeviceGraph{static_cast<uint32_t>(graphs_.size() - 1)};
}

absl::Status SimulatedDevice::LaunchGraph(DeviceStream stream, DeviceGraph graph) {
  ++graph_launches_;
  for (const Work& work : graphs_[graph.id]) HGA_RETURN_IF_ERROR(Give(stream, work));
  return absl::OkStatus();
}

absl::Status SimulatedDevice::Gemm(DeviceStream stream, const GemmCall& call) {
  return Give(stream, [call] {
    for (uint32_t r = 0; r < call.rows; ++r) {
      for (uint32_t o = 0; o < call.outputs; ++o) {
        float sum = 0;
        const bf16 *x = call.x + size_t{r} * call.cols, *w = call.w + size_t{o} * call.cols;
        for (uint32_t c = 0; c < call.cols; ++c) sum += ToFloat(x[c]) * ToFloat(w[c]);
        call.y[r * call.y_stride + o] = sum;
      }
    }
    return absl::OkStatus();
  });
}

absl::Status SimulatedDevice::F8Gemm(DeviceStream stream, const F8GemmCall& call) {
  if (options_.f8_gemm == SimulatedF8Gemm::kRefused) return absl::InternalError("simulated device: no FP8 GEMM");
  ++f8_gemms_;
  const bool wrong = options_.f8_gemm == SimulatedF8Gemm::kWrong;
  return Give(stream, [call, wrong] {
    for (uint32_t r = 0; r < call.rows; ++r) {
      for (uint32_t o = 0; o < call.outputs; ++o) {
        float sum = 0;
        for (uint32_t group = 0; group < call.cols / kF8Group; ++group) {
          float of_group = 0;
          for (uint32_t c = group * kF8Group; c < (group + 1) * kF8Group; ++c) {
            of_group += WidenF8(call.x[size_t{r} * call.cols + c]) * WidenF8(call.w[size_t{o} * call.cols + c]);
          }
          const uint32_t scale = o / 128 * (call.cols / kF8Group) + group;
          sum += of_group * call.x_scales[size_t{group} * call.rows + r] * call.w_scales[wrong ? 0 : scale];
        }
        call.y[r * call.y_stride + o] = sum;
      }
    }
    return absl::OkStatus();
  });
}

// What a device would fault on: nothing else tells the emulator that the host's memory is not the device's.
absl::Status SimulatedDevice::CheckGather(const GatherArgs& args) const {
  for (uint32_t i = 0; i < args.count; ++i) {
    const GatherEntry& entry = args.entries[i];
    const size_t bytes = size_t{entry.tokens} * args.head_dim * sizeof(bf16);
    const size_t read = args.int8 != 0 ? size_t{entry.tokens} * Int8RowBytes(args.head_dim) : bytes;
    if (Mapped(entry.k, read) == nullptr || (args.int8 == 0 && Mapped(entry.v, read) == nullptr)) {
      return absl::InternalError("simulated device: a gather from memory that is not mapped");
    }
    HGA_RETURN_IF_ERROR(CheckOnDevice(entry.to_k, bytes));
    HGA_RETURN_IF_ERROR(CheckOnDevice(entry.to_v, bytes));
  }
  return absl::OkStatus();
}

absl::Status SimulatedDevice::LaunchKernel(DeviceStream stream, KernelId kernel, const LaunchShape& shape,
                                           const void* args, size_t bytes) {
  kernel_launches_ += capturing_ != stream;
  const auto* begin = static_cast<const uint8_t*>(args);
  auto copy = std::make_shared<std::vector<uint8_t>>(begin, begin + bytes);
  return Give(stream, [this, kernel, shape, copy] {
    absl::Status status;
    if (kernel == KernelId::kGather) status = CheckGather(*reinterpret_cast<const GatherArgs*>(copy->data()));
    if (status.ok()) status = RunEmulatedKernel(kernel, shape, options_.seed, copy->data());
    return status;
  });
}

}  // namespace hga
