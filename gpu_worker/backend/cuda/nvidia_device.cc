#include "gpu_worker/backend/cuda/nvidia_device.h"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "gpu_worker/backend/cuda/cublas_lt.h"
#include "gpu_worker/backend/cuda/nvidia_kernels.h"

namespace hga {
namespace {

absl::Status Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();  // or the next launch would report it: what is refused here may be done in another way
  const std::string message = absl::StrCat("cuda: ", what, ": ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

class NvidiaDevice : public Device {
 public:
  ~NvidiaDevice() override;
  absl::Status Open(int number);

  std::string name() const override { return name_; }
  uint32_t multiprocessors() const override { return multiprocessors_; }
  size_t free_bytes() const override;
  absl::StatusOr<void*> Allocate(size_t bytes) override;
  void Free(void* memory) override { (void)cudaFree(memory); }
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
  bool has_gemm() const override { return blas_ != nullptr; }
  void SetGemmWorkspace(void* memory, size_t bytes) override {
    if (blas_ != nullptr) blas_->SetWorkspace(memory, bytes);
  }
  absl::Status Gemm(DeviceStream stream, const GemmCall& call) override { return blas_->Gemm(At(stream), call); }
  bool has_f8_gemm() const override { return blas_ != nullptr && block_scales_; }
  absl::Status F8Gemm(DeviceStream stream, const F8GemmCall& call) override { return blas_->F8Gemm(At(stream), call); }

 protected:
  absl::Status LaunchKernel(DeviceStream stream, KernelId kernel, const LaunchShape& shape, const void* args,
                            size_t bytes) override;

 private:
  struct Range {
    size_t bytes = 0;
    const uint8_t* on_device = nullptr;
  };
  cudaStream_t At(DeviceStream stream) const { return streams_[static_cast<size_t>(stream)]; }
  absl::Status AddRange(const void* memory, size_t bytes);
  void RemoveRange(const void* memory);

  int number_ = 0;
  std::string name_;
  uint32_t multiprocessors_ = 0;
  bool block_scales_ = false;
  cudaStream_t streams_[kDeviceStreams] = {};
  std::vector<cudaEvent_t> events_;
  DeviceStream capturing_ = DeviceStream::kCompute;
  std::vector<cudaGraphExec_t> graphs_;
  std::unique_ptr<CublasLt> blas_;
  mutable std::mutex mu_;
  std::map<uintptr_t, Range> ranges_;  // guarded by mu_: host memory that kernels can read
};

absl::Status NvidiaDevice::Open(int number) {
  number_ = number;
  cudaDeviceProp properties;
  HGA_RETURN_IF_ERROR(Check(cudaSetDevice(number), "cudaSetDevice"));
  HGA_RETURN_IF_ERROR(Check(cudaGetDeviceProperties(&properties, number), "cudaGetDeviceProperties"));
  name_ = absl::StrCat(properties.name, " (sm_", properties.major, properties.minor, ")");
  multiprocessors_ = properties.multiProcessorCount;
  if (properties.major < 8) return absl::FailedPreconditionError(absl::StrCat(name_, " is too old; sm_80 at least"));
  block_scales_ = properties.major >= 9;  // sm_89 multiplies FP8, but with one scale for a whole matrix
  for (cudaStream_t& stream : streams_) {
    HGA_RETURN_IF_ERROR(Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
  }
  HGA_RETURN_IF_ERROR(Check(static_cast<cudaError_t>(PrepareNvidiaKernels()), "kernels"));
  auto blas = CublasLt::Load();
  if (blas.ok()) {
    blas_ = *std::move(blas);
  } else {
    LogWarning("no cuBLASLt: prompts are multiplied by the backend's own kernel, which is slower",
               {{"error", std::string(blas.status().message())}});
  }
  return absl::OkStatus();
}

NvidiaDevice::~NvidiaDevice() {
  (void)cudaDeviceSynchronize();
  blas_.reset();
  for (cudaGraphExec_t graph : graphs_) (void)cudaGraphExecDestroy(graph);
  for (cudaEvent_t event : events_) (void)cudaEventDestroy(event);
  for (cudaStream_t stream : streams_) {
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
  }
}

size_t NvidiaDevice::free_bytes() const {
  size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}

absl::StatusOr<void*> NvidiaDevice::Allocate(size_t bytes) {
  void* memory = nullptr;
  HGA_RETURN_IF_ERROR(Check(cudaMalloc(&memory, bytes), "cudaMalloc"));
  return memory;
}

absl::StatusOr<void*> NvidiaDevice::AllocatePinned(size_t bytes) {
  void* memory = nullptr;
  HGA_RETURN_IF_ERROR(
      Check(cudaHostAlloc(&memory, bytes, cudaHostAllocMapped | cudaHostAllocPortable), "cudaHostAlloc"));
  if (absl::Status status = AddRange(memory, bytes); !status.ok()) {
    (void)cudaFreeHost(memory);
    return status;
  }
  return memory;
}

void NvidiaDevice::FreePinned(void* memory) {
  RemoveRange(memory);
  (void)cudaFreeHost(memory);
}

absl::Status NvidiaDevice::RegisterHost(const void* memory, size_t bytes) {
  (void)cudaSetDevice(number_);  // any thread
  void* address = const_cast<void*>(memory);
  HGA_RETURN_IF_ERROR(
      Check(cudaHostRegister(address, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable), "cudaHostRegister"));
  absl::Status status = AddRange(memory, bytes);
  if (!status.ok()) (void)cudaHostUnregister(address);
  return status;
}

void NvidiaDevice::UnregisterHost(const void* memory) {
  (void)cudaSetDevice(number_);
  RemoveRange(memory);
  (void)cudaDeviceSynchronize();
  (void)cudaHostUnregister(const_cast<void*>(memory));
}

absl::Status NvidiaDevice::AddRange(const void* memory, size_t bytes) {
  void* on_device = nullptr;
  HGA_RETURN_IF_ERROR(
      Check(cudaHostGetDevicePointer(&on_device, const_cast<void*>(memory), 0), "cudaHostGetDevicePointer"));
  std::lock_guard<std::mutex> lock(mu_);
  ranges_[reinterpret_cast<uintptr_t>(memory)] = {bytes, static_cast<const uint8_t*>(on_device)};
  return absl::OkStatus();
}

void NvidiaDevice::RemoveRange(const void* memory) {
  std::lock_guard<std::mutex> lock(mu_);
  ranges_.erase(reinterpret_cast<uintptr_t>(memory));
}

MappedMemory NvidiaDevice::MappedAround(const void* memory) const {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  std::lock_guard<std::mutex> lock(mu_);
  auto found = ranges_.upper_bound(address);
  if (found == ranges_.begin()) return {};
  --found;
  return {reinterpret_cast<const uint8_t*>(found->first), found->second.bytes, found->second.on_device};
}

absl::Status NvidiaDevice::CopyToDevice(DeviceStream stream, void* to, const void* from, size_t bytes) {
  return Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, At(stream)), "a copy to the device");
}

absl::Status NvidiaDevice::CopyToHost(DeviceStream stream, void* to, const void* from, size_t bytes) {
  return Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, At(stream)), "a copy to the host");
}

absl::StatusOr<DeviceEvent> NvidiaDevice::NewEvent() {
  cudaEvent_t event = nullptr;
  HGA_RETURN_IF_ERROR(Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate"));
  events_.push_back(event);
  return DeviceEvent{static_cast<uint32_t>(events_.size() - 1)};
}

absl::Status NvidiaDevice::Record(DeviceEvent event, DeviceStream stream) {
  return Check(cudaEventRecord(events_[event.id], At(stream)), "cudaEventRecord");
}

absl::Status NvidiaDevice::Wait(DeviceStream stream, DeviceEvent event) {
  return Check(cudaStreamWaitEvent(At(stream), events_[event.id], 0), "cudaStreamWaitEvent");
}

absl::Status NvidiaDevice::Synchronize(DeviceEvent event) {
  return Check(cudaEventSynchronize(events_[event.id]), "waiting for an event");
}

absl::Status NvidiaDevice::Synchronize(DeviceStream stream) {
  return Check(cudaStreamSynchronize(At(stream)), "waiting for a stream");
}

// Other threads may register memory meanwhile.
absl::Status NvidiaDevice::BeginCapture(DeviceStream stream) {
  capturing_ = stream;
  return Check(cudaStreamBeginCapture(At(stream), cudaStreamCaptureModeThreadLocal), "recording a graph");
}

absl::StatusOr<DeviceGraph> NvidiaDevice::EndCapture() {
  cudaGraph_t graph = nullptr;
  HGA_RETURN_IF_ERROR(Check(cudaStreamEndCapture(At(capturing_), &graph), "recording a graph"));
  cudaGraphExec_t ready = nullptr;
  const absl::Status status = Check(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate");
  (void)cudaGraphDestroy(graph);
  HGA_RETURN_IF_ERROR(status);
  graphs_.push_back(ready);
  return DeviceGraph{static_cast<uint32_t>(graphs_.size() - 1)};
}

absl::Status NvidiaDevice::LaunchGraph(DeviceStream stream, DeviceGraph graph) {
  return Check(cudaGraphLaunch(graphs_[graph.id], At(stream)), "cudaGraphLaunch");
}

absl::Status NvidiaDevice::LaunchKernel(DeviceStream stream, KernelId kernel, const LaunchShape& shape,
                                        const void* args, size_t) {
  return Check(static_cast<cudaError_t>(LaunchNvidiaKernel(kernel, shape, At(stream), args)), "launching a kernel");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> OpenNvidiaDevice() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    return absl::UnavailableError(absl::StrCat("no CUDA device: ", error == cudaSuccess ? "the driver has none"
                                                                                        : cudaGetErrorString(error)));
  }
  auto device = std::make_unique<NvidiaDevice>();
  HGA_RETURN_IF_ERROR(device->Open(0));
  return std::unique_ptr<Device>(std::move(device));
}

}  // namespace hga
