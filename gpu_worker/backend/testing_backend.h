// Backends by name for tests: those of CreateBackend, and the CUDA backend on a simulated device.
#ifndef HGA_GPU_WORKER_BACKEND_TESTING_BACKEND_H_
#define HGA_GPU_WORKER_BACKEND_TESTING_BACKEND_H_

#include <memory>
#include <string>

#include "gpu_worker/backend/backend.h"

namespace hga {

// kind: as CreateBackend, or
//   "emulated"        copies done as late as may be, GEMM by a library
//   "emulated_mapped" the same, and all of the host's memory is as if it were registered
//   "emulated_in_place" the same, and decoding rows read K/V there
//   "emulated_tight"  copies done as early as may be, GEMM by the backend's own kernel, a window and a device tier so
//                     small that a launch holds few keys, threads in an order drawn from options.threads
absl::StatusOr<std::unique_ptr<Backend>> CreateTestBackend(const std::string& kind, const ModelWeights& weights,
                                                           const KvGeometry& geometry, const BackendOptions& options);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_TESTING_BACKEND_H_
