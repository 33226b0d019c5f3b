// Brings runs of keys and values from the host's memory.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"

namespace hga {

HGA_DEVICE bool Aligned16(const void* a, const void* b) {
  return ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) & 15) == 0;
}

HGA_DEVICE void CopyRun(const bf16* from, bf16* to, uint32_t elements) {
  uint32_t done = 0;
  if (Aligned16(from, to)) {
    done = elements / 8 * 8;
    for (uint32_t i = Lane(); i < elements / 8; i += kWarp) {
      reinterpret_cast<Bytes16*>(to)[i] = reinterpret_cast<const Bytes16*>(from)[i];
    }
  }
  for (uint32_t i = done + Lane(); i < elements; i += kWarp) to[i] = from[i];
}

// A warp for each entry.
HGA_DEVICE void Run(const GatherArgs& a) {
  const uint32_t at = blockIdx.x * (blockDim.x / kWarp) + Warp();
  if (at >= a.count) return;
  const GatherEntry entry = a.entries[at];
  CopyRun(entry.k, entry.to_k, entry.elements);
  CopyRun(entry.v, entry.to_v, entry.elements);
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_
