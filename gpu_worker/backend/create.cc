#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cpu/cpu_backend.h"
#include "gpu_worker/backend/reference/reference_backend.h"
#include "gpu_worker/backend/validate.h"

namespace hga {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const std::string& kind, const ModelWeights& weights,
                                                       const KvGeometry& geometry, const BackendOptions& options) {
  if (kind != "reference" && kind != "cpu") {
    return absl::NotFoundError(absl::StrCat("no backend '", kind, "'; there are: cpu, reference"));
  }
  HGA_RETURN_IF_ERROR(ValidateBackendInputs(weights, geometry, options));
  if (kind == "reference") return NewReferenceBackend(weights, geometry, options);
  return NewCpuBackend(weights, geometry, options);
}

}  // namespace hga
