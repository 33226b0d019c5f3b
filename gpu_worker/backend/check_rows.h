// The check that every backend makes on a step's rows.
#ifndef HGA_GPU_WORKER_BACKEND_CHECK_ROWS_H_
#define HGA_GPU_WORKER_BACKEND_CHECK_ROWS_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gpu_worker/backend/backend.h"

namespace hga {

// INVALID_ARGUMENT: no rows, too many, or a token id outside the vocabulary.
absl::Status CheckRows(absl::Span<const BatchRow> rows, uint32_t max_rows, const ModelConfig& config);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CHECK_ROWS_H_
