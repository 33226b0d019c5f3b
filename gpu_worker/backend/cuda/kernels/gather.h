// Brings runs of keys and values from the host's memory.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/int8.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {

HGA_DEVICE bool Aligned16(const void* a, const void* b) {
  return ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) & 15) == 0;
}

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

// The lines that hold some tokens' rows, whole and in order, into the warp's part of shared memory: a row begins at any
// even byte, and read by codes it would cost the bus a third more. Memory of the host is read in whole words of sixteen
// bytes, of which a block has no other ends.
HGA_DEVICE const uint8_t* StageRows(const uint8_t* from, uint32_t bytes, uint8_t* stage) {
  const uint32_t skipped = reinterpret_cast<uintptr_t>(from) & 15, words = (skipped + bytes + 15) / 16;
  const auto* lines = reinterpret_cast<const Bytes16*>(from - skipped);
  Bytes16 words_of_lane[kGatherAhead];
  HGA_UNROLL
  for (uint32_t i = 0; i < kGatherAhead; ++i) {
    if (Lane() + i * kWarp < words) words_of_lane[i] = lines[Lane() + i * kWarp];
  }
  HGA_UNROLL
  for (uint32_t i = 0; i < kGatherAhead; ++i) {
    if (Lane() + i * kWarp < words) reinterpret_cast<Bytes16*>(stage)[Lane() + i * kWarp] = words_of_lane[i];
  }
  __syncwarp();
  return stage + skipped;
}

// Codes of a token's K and V follow each other, and so do their scales behind them, one for each kInt8Channels.
HGA_DEVICE void UnpackInt8(const GatherEntry& e, uint32_t head_dim, uint8_t* stage) {
  const uint32_t scales = Int8Scales(head_dim), row = Int8RowBytes(head_dim);
  const uint32_t fours = head_dim / 2, at_once = (kGatherStageBytes - 15) / row;
  for (uint32_t first = 0; first < e.tokens; first += at_once) {
    const uint32_t tokens = Least(at_once, e.tokens - first);
    const uint8_t* const rows = StageRows(e.k + size_t{first} * row, tokens * row, stage);
    for (uint32_t i = Lane(); i < tokens * fours; i += kWarp) {
      const uint32_t token = i / fours, at = 4 * (i % fours), value = at < head_dim ? 0 : 1;
      const uint32_t channel = at - value * head_dim;
      const uint8_t* const codes = rows + token * row;
      const float step = Int8Step(codes[2 * head_dim + value * scales + channel / kInt8Channels]);
      float values[4];
      for (uint32_t c = 0; c < 4; ++c) values[c] = static_cast<int8_t>(codes[at + c]) * step;
      bf16* const to = (value == 0 ? e.to_k : e.to_v) + size_t{first + token} * head_dim + channel;
      *reinterpret_cast<Words<2>*>(to) = {{NarrowPair(values[0], values[1]), NarrowPair(values[2], values[3])}};
    }
    __syncwarp();  // the rows have been read
  }
}

// A warp for each entry. Shared memory, of int8: kGatherStageBytes for each.
HGA_DEVICE void Run(const GatherArgs& a) {
  const uint32_t at = blockIdx.x * (blockDim.x / kWarp) + Warp();
  if (at >= a.count) return;
  const GatherEntry entry = a.entries[at];
  if (a.int8 != 0) {
    UnpackInt8(entry, a.head_dim, SharedMemory() + Warp() * kGatherStageBytes);
  } else {
    CopyBf16(entry, entry.tokens * a.head_dim);
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GATHER_H_
