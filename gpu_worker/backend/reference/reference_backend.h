// The oracle: plain loops, double accumulators, no state of its own beyond the step. Slow; tests compare against it.
#ifndef HGA_GPU_WORKER_BACKEND_REFERENCE_REFERENCE_BACKEND_H_
#define HGA_GPU_WORKER_BACKEND_REFERENCE_REFERENCE_BACKEND_H_

#include "gpu_worker/backend/backend.h"

namespace hga {

// Inputs have passed ValidateBackendInputs. The weights must outlive the backend.
std::unique_ptr<Backend> NewReferenceBackend(const ModelWeights& weights, const KvGeometry& geometry,
                                             const BackendOptions& options);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_REFERENCE_REFERENCE_BACKEND_H_
