// The checks that every backend on the host makes on what it is given.
#ifndef HGA_GPU_WORKER_BACKEND_CHECK_ROWS_H_
#define HGA_GPU_WORKER_BACKEND_CHECK_ROWS_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gpu_worker/backend/backend.h"

namespace hga {

// INVALID_ARGUMENT: no rows, too many, or a token id outside the vocabulary.
absl::Status CheckRows(absl::Span<const BatchRow> rows, uint32_t max_rows, const ModelConfig& config);

// INVALID_ARGUMENT: no such layer, not one place for each of `rows`, or a place outside its block.
absl::Status CheckKvRows(const KvGeometry& geometry, uint32_t layer, absl::Span<const KvRow> kv_rows, size_t rows);

// INVALID_ARGUMENT: rows outside the step, runs for another number of KV heads, or a run without keys or longer than a
// group.
absl::Status CheckPlan(const KvGeometry& geometry, const AttendPlan& plan, size_t rows);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CHECK_ROWS_H_
