// How the engine treats what kv_store answers: which blocks are gone for good, how long to wait for room, and what is
// said where none was found.
#ifndef HGA_GPU_WORKER_ENGINE_STORE_RETRY_H_
#define HGA_GPU_WORKER_ENGINE_STORE_RETRY_H_

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace hga {

// About two seconds of StoreBackoff in all: the store writes and evicts meanwhile. Nobody else waits for them.
inline constexpr int kStoreAttempts = 40;

// 1 ms at first, 50 ms at most.
inline absl::Duration StoreBackoff(int attempt) {
  return absl::Milliseconds(std::min(1 << std::min(attempt, 6), 50));
}

// What the caller of a request is told that found no room in time; other errors as they are.
inline absl::Status ExplainShortage(const absl::Status& status) {
  if (!absl::IsResourceExhausted(status)) return status;
  return absl::ResourceExhaustedError(absl::StrCat(
      status.message(), "; the arena is too small for what is under way: try again later, or raise --arena_bytes"));
}

// The block must be computed again.
inline bool BlockIsGone(const absl::Status& status) { return absl::IsNotFound(status) || absl::IsDataLoss(status); }

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_STORE_RETRY_H_
