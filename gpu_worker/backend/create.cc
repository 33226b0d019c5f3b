#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cpu/cpu_backend.h"
#include "gpu_worker/backend/reference/reference_backend.h"

namespace hga {
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const std::string& kind, const ModelWeights& weights,
                                                       const KvGeometry& geometry, const BackendOptions& options) {
  if (kind == "reference") return std::make_unique<ReferenceBackend>(weights, geometry, options);
  if (kind == "cpu") return CpuBackend::Create(weights, geometry, options);
  return absl::InvalidArgumentError(absl::StrCat("no backend '", kind, "'; there are: cpu, reference"));
}

}  // namespace hga
