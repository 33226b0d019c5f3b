// Brings runs of keys and values from the host's memory.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/int8.h"

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

HGA_DEVICE void CopyBf16(const GatherEntry& e, uint32_t elements) {
  const auto *k = reinterpret_cast<const bf16*>(e.k), *v = reinterpret_cast<const bf16*>(e.v);
  uint32_t done = 0;
  if (Aligned16(e.k, e.to_k) && Aligned16(e.v, e.to_v)) {
    done = elements / 8 * 8;
    CopyAligned(e, done / 8);
  }
  for (uint32_t i = done + Lane(); i < elements; i += kWarp) {
    e.to_k[i] = k[i];
    e.to_v[i] = v[i];
  }
}

// Four codes of int8, the first in the lowest byte.
HGA_DEVICE uint32_t FourCodes(const uint8_t* at, bool aligned) {
  if (aligned) return *reinterpret_cast<const uint32_t*>(at);
  return at[0] | at[1] << 8 | at[2] << 16 | static_cast<uint32_t>(at[3]) << 24;
}

// Codes of a token's K and V follow each other, and so do their scales behind them, one for each kInt8Channels. Four
// codes for each lane at a time, so many times before the first of them is written.
HGA_DEVICE void UnpackInt8(const GatherEntry& e, uint32_t head_dim) {
  const uint32_t scales = (head_dim + kInt8Channels - 1) / kInt8Channels, row = 2 * (head_dim + scales);
  const uint32_t fours = head_dim / 2, all = e.tokens * fours;
  const bool aligned = ((reinterpret_cast<uintptr_t>(e.k) | row) & 3) == 0;
  for (uint32_t first = Lane(); first < all; first += kGatherAhead * kWarp) {
    uint32_t codes[kGatherAhead], scale[kGatherAhead];
    HGA_UNROLL
    for (uint32_t i = 0; i < kGatherAhead; ++i) {
      if (first + i * kWarp >= all) break;
      const uint32_t token = (first + i * kWarp) / fours, at = 4 * ((first + i * kWarp) % fours);
      const uint32_t value = at < head_dim ? 0 : 1;
      const uint8_t* from = e.k + size_t{token} * row;
      codes[i] = FourCodes(from + at, aligned);
      scale[i] = from[2 * head_dim + value * scales + (at - value * head_dim) / kInt8Channels];
    }
    HGA_UNROLL
    for (uint32_t i = 0; i < kGatherAhead; ++i) {
      if (first + i * kWarp >= all) break;
      const uint32_t token = (first + i * kWarp) / fours, at = 4 * ((first + i * kWarp) % fours);
      const float step = Int8Step(scale[i]);
      bf16* const to = (at < head_dim ? e.to_k + at : e.to_v + at - head_dim) + size_t{token} * head_dim;
      for (uint32_t c = 0; c < 4; ++c) to[c] = Narrow(static_cast<int8_t>(codes[i] >> (8 * c) & 0xff) * step);
    }
  }
}

// A warp for each entry.
HGA_DEVICE void Run(const GatherArgs& a) {
  const uint32_t at = blockIdx.x * (blockDim.x / kWarp) + Warp();
  if (at >= a.count) return;
  const GatherEntry entry = a.entries[at];
  if (a.int8 != 0) {
    UnpackInt8(entry, a.head_dim);
  } else {
    CopyBf16(entry, entry.tokens * a.head_dim);
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_
