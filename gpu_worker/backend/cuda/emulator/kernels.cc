#include "gpu_worker/backend/cuda/emulator/kernels.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "gpu_worker/backend/cuda/kernels/all.h"

namespace hga {
namespace {

template <typename Args>
void Body(const void* args) {
  Run(*static_cast<const Args*>(args));
}

template <typename Args>
absl::Status RunOne(const LaunchShape& shape, uint64_t seed, const void* args) {
  const absl::Status status = emulator::RunGrid(shape, seed, Body<Args>, args);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(KernelOf<Args>::name, ": ", std::string(status.message())));
}

}  // namespace

bool LeadsTile(const void* memory, uint32_t stride, uint32_t element_bytes) {
  HGA_CHECK(reinterpret_cast<uintptr_t>(memory) % 32 == 0);
  HGA_CHECK(stride * element_bytes % 16 == 0);
  return Lane() == 0;
}

absl::Status RunEmulatedKernel(KernelId kernel, const LaunchShape& shape, uint64_t seed, const void* args) {
  switch (kernel) {
#define HGA_RUN(name) \
  case KernelId::k##name: return RunOne<name##Args>(shape, seed, args);
    HGA_CUDA_KERNELS(HGA_RUN)
#undef HGA_RUN
    case KernelId::kCount: break;
  }
  return absl::InternalError("no such kernel");
}

}  // namespace hga
