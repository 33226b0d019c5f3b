// Some keys of a ragged list of runs: what both attention kernels work on. Their runs are in shared memory.
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

// Which of runs[0, count) has key `key`, counted as DeviceRun::first_key.
HGA_DEVICE uint32_t RunOfKey(const DeviceRun* runs, uint32_t count, uint32_t key) {
  uint32_t low = 0, high = count;  // it is in [low, high)
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    (runs[middle].first_key <= key ? low : high) = middle;
  }
  return low;
}

// Key `in_run` of the run.
template <uint32_t kKeys>
HGA_DEVICE void PlaceKey(const DeviceRun& run, uint32_t in_run, uint32_t head_dim, KeyList<kKeys>* list, uint32_t at) {
  list->keys[at] = run.k + size_t{in_run} * head_dim;
  list->values[at] = run.v + size_t{in_run} * head_dim;
  list->position[at] = run.position + in_run;
  list->first_row[at] = run.first_row;
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_KEY_TILE_H_
