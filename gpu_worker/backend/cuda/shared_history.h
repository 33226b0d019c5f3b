// What a prompt's query blocks attend alike: where it attends everything, their lists begin with the same runs, those
// of the chunks before it; where it is routed, each block has its own.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_SHARED_HISTORY_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_SHARED_HISTORY_H_

#include <cstdint>

#include "absl/types/span.h"
#include "common/kv/geometry.h"
#include "gpu_worker/backend/backend.h"

namespace hga {

// Fewer runs than this are not worth a launch of their own.
inline constexpr uint32_t kLeastSharedRuns = 16;

struct SharedHistory {
  uint32_t blocks = 1;  // the first ones of those given, consecutive
  // Runs with which the list of every KV head of each of them begins: of finished chunks, seen by all rows; of one
  // block, or the same in several. 0: none worth it; then there is one block.
  uint32_t runs = 0;
};

// Of `blocks`, not empty, from the first on. Blocks of one row share nothing: a decoding row's runs are worth keeping.
SharedHistory FindSharedHistory(const KvGeometry& geometry, absl::Span<const QueryBlock> blocks);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_SHARED_HISTORY_H_
