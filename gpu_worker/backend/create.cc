#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cpu/cpu_backend.h"
#include "gpu_worker/backend/reference/reference_backend.h"

namespace hga {
namespace {

// What a model may have and no backend computes: better no answer than a wrong one. Whoever teaches them takes the
// line out.
absl::Status RefuseUnsupported(const ModelWeights& weights) {
  const ModelConfig& c = weights.config;
  bool fp8 = false;
  for (const LayerWeights& l : weights.layers) {
    for (const TensorView* view : {&l.q, &l.k, &l.v, &l.attn_output, &l.ffn_gate, &l.ffn_up, &l.ffn_down}) {
      fp8 = fp8 || view->type == TensorType::kF8E4M3;
    }
  }
  const struct {
    bool present;
    const char* what;
  } features[] = {
      {c.qkv_bias, "biases on queries, keys and values"},
      {c.qk_norm, "norms of query and key heads"},
      {c.experts > 0, "experts"},
      {c.rope_scaling.kind != RopeScaling::Kind::kNone || !c.rope_scaling.divisors.empty(), "RoPE scaling"},
      {fp8, "FP8 weights"},
  };
  for (const auto& feature : features) {
    if (!feature.present) continue;
    return absl::UnimplementedError(absl::StrCat("model ", c.name, " (", c.architecture, ") has ", feature.what,
                                                 ", which the backends do not compute yet; it can be inspected"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const std::string& kind, const ModelWeights& weights,
                                                       const KvGeometry& geometry, const BackendOptions& options) {
  HGA_RETURN_IF_ERROR(RefuseUnsupported(weights));
  if (kind == "reference") return std::make_unique<ReferenceBackend>(weights, geometry, options);
  if (kind == "cpu") return CpuBackend::Create(weights, geometry, options);
  return absl::InvalidArgumentError(absl::StrCat("no backend '", kind, "'; there are: cpu, reference"));
}

}  // namespace hga
