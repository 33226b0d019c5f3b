// Some keys of a ragged list of runs, brought into shared memory: what both attention kernels work on.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_KEY_TILE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_KEY_TILE_H_

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {

// Keys of the item's runs in all.
HGA_DEVICE uint32_t KeysOfItem(const AttendItem& item, const DeviceRun* runs) {
  if (item.runs == 0) return 0;
  const DeviceRun& last = runs[item.first_run + item.runs - 1];
  return last.first_key + last.tokens - runs[item.first_run].first_key;
}

// Finds key `number` of the item; threads of a block share out the tile's keys.
template <uint32_t kKeys>
HGA_DEVICE void FindKey(const AttendItem& item, const DeviceRun* all_runs, uint32_t head_dim, uint32_t number,
                        uint32_t count, KeyList<kKeys>* list, uint32_t at) {
  if (number >= count) {
    list->keys[at] = list->values[at] = nullptr;
    return;
  }
  const DeviceRun* runs = all_runs + item.first_run;
  const uint32_t key = number + runs[0].first_key;
  uint32_t low = 0, high = item.runs;  // the run is in [low, high)
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (runs[middle].first_key <= key) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const DeviceRun run = runs[low];
  const uint32_t in_run = key - run.first_key;
  list->keys[at] = run.k + size_t{in_run} * head_dim;
  list->values[at] = run.v + size_t{in_run} * head_dim;
  list->position[at] = run.position + in_run;
  list->first_row[at] = run.first_row;
}

// to: [kKeys][stride]; zeros where there is no key, and behind head_dim up to `padded`.
template <uint32_t kKeys>
HGA_DEVICE void LoadKeyRows(const bf16* const* from, uint32_t head_dim, uint32_t padded, uint32_t stride, bf16* to) {
  const uint32_t chunks = padded / 8;
  for (uint32_t i = threadIdx.x; i < kKeys * chunks; i += blockDim.x) {
    const uint32_t key = i / chunks, first = i % chunks * 8;
    const bf16* row = from[key];
    bf16* out = to + key * stride + first;
    if (row != nullptr && head_dim % 8 == 0 && first < head_dim) {
      *reinterpret_cast<Bytes16*>(out) = *reinterpret_cast<const Bytes16*>(row + first);
      continue;
    }
    for (uint32_t j = 0; j < 8; ++j) out[j] = row != nullptr && first + j < head_dim ? row[first + j] : bf16{0};
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_KEY_TILE_H_
