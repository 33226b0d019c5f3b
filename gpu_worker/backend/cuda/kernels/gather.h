// Brings runs of keys and values from the host's memory.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"

namespace hga {

HGA_DEVICE bool Aligned16(const void* a, const void* b) {
  return ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) & 15) == 0;
}

// Sixteen bytes for each lane at a time, so many times before the first of them is written: an answer of the bus takes
// longer than all that a lane asks for.
inline constexpr uint32_t kGatherAhead = 4;

HGA_DEVICE void CopyAligned(const GatherEntry& e, uint32_t words) {
  const auto *k = reinterpret_cast<const Bytes16*>(e.k), *v = reinterpret_cast<const Bytes16*>(e.v);
  auto *to_k = reinterpret_cast<Bytes16*>(e.to_k), *to_v = reinterpret_cast<Bytes16*>(e.to_v);
  for (uint32_t first = Lane(); first < words; first += kGatherAhead * kWarp) {
    Bytes16 keys[kGatherAhead], values[kGatherAhead];
    HGA_UNROLL
    for (uint32_t i = 0; i < kGatherAhead; ++i) {
      if (first + i * kWarp >= words) break;
      keys[i] = k[first + i * kWarp];
      values[i] = v[first + i * kWarp];
    }
    HGA_UNROLL
    for (uint32_t i = 0; i < kGatherAhead; ++i) {
      if (first + i * kWarp >= words) break;
      to_k[first + i * kWarp] = keys[i];
      to_v[first + i * kWarp] = values[i];
    }
  }
}

// A warp for each entry.
HGA_DEVICE void Run(const GatherArgs& a) {
  const uint32_t at = blockIdx.x * (blockDim.x / kWarp) + Warp();
  if (at >= a.count) return;
  const GatherEntry entry = a.entries[at];
  uint32_t done = 0;
  if (Aligned16(entry.k, entry.to_k) && Aligned16(entry.v, entry.to_v)) {
    done = entry.elements / 8 * 8;
    CopyAligned(entry, done / 8);
  }
  for (uint32_t i = done + Lane(); i < entry.elements; i += kWarp) {
    entry.to_k[i] = entry.k[i];
    entry.to_v[i] = entry.v[i];
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_
