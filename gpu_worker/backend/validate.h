// What every backend demands of its caller, so that all refuse the same things in the same words.
#ifndef HGA_GPU_WORKER_BACKEND_VALIDATE_H_
#define HGA_GPU_WORKER_BACKEND_VALIDATE_H_

#include "gpu_worker/backend/backend.h"

namespace hga {

// INVALID_ARGUMENT: a tensor of the wrong shape, a geometry that is not the model's, options out of bounds.
absl::Status ValidateBackendInputs(const ModelWeights& weights, const KvGeometry& geometry,
                                   const BackendOptions& options);
// INVALID_ARGUMENT: no row, too many rows, a token outside the vocabulary.
absl::Status ValidateRows(absl::Span<const BatchRow> rows, const ModelConfig& config, uint32_t max_rows);
// INVALID_ARGUMENT: unknown layer, one KvRow per row is missing, a token outside its chunk.
absl::Status ValidateKvRows(uint32_t layer, absl::Span<const KvRow> kv_rows, size_t rows, const KvGeometry& geometry);
// INVALID_ARGUMENT: a block outside the batch, two blocks of one plan with a common row, wrong number of KV heads, an
// empty run.
absl::Status ValidatePlan(const AttendPlan& plan, size_t rows, const KvGeometry& geometry);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_VALIDATE_H_
