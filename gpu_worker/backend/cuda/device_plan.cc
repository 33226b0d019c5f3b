#include "gpu_worker/backend/cuda/device_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gpu_worker/backend/cuda/weight_loader.h"

namespace hga {
namespace {

uint64_t StackBytes(const std::vector<TensorView>& matrices) {
  return matrices.empty() ? 0 : MatrixDeviceBytes(matrices[0], matrices.size());
}

uint64_t LayerBytes(const LayerWeights& w) {
  uint64_t bytes = VectorDeviceBytes(w.attn_norm) + VectorDeviceBytes(w.ffn_norm) + VectorDeviceBytes(w.q_norm) +
                   VectorDeviceBytes(w.k_norm);
  const uint64_t biases = uint64_t{w.q_bias.cols} + w.k_bias.cols + w.v_bias.cols;
  bytes += DeviceBytes(biases * sizeof(float));
  for (const TensorView* m : {&w.q, &w.k, &w.v, &w.attn_output, &w.ffn_gate, &w.ffn_up, &w.ffn_down,
                              &w.expert_router}) {
    if (m->present()) bytes += MatrixDeviceBytes(*m);
  }
  return bytes + StackBytes(w.expert_gate) + StackBytes(w.expert_up) + StackBytes(w.expert_down);
}

// 280,000 tokens of Qwen3-30B-A3B.
constexpr uint64_t kUsefulSummaries = uint64_t{1} << 30;

std::string Line(const char* what, uint64_t bytes) {
  return absl::StrFormat("  %-12s %15d bytes  %8.3f GiB\n", what, bytes, static_cast<double>(bytes) / (1 << 30));
}

}  // namespace

CudaAttentionOptions AttentionOptionsOf(const ModelConfig& config, const CudaBackendOptions& o, uint64_t tier_bytes) {
  CudaAttentionOptions attention;
  attention.max_rows = o.max_rows;
  attention.window_bytes = o.window_bytes;
  attention.tier_bytes = tier_bytes;
  attention.tier_unit_tokens = o.tier_unit_tokens;
  attention.in_place = o.in_place;
  attention.batch.first_part_state = o.max_rows * config.query_heads;
  attention.batch.part_states = o.part_states;
  return attention;
}

WorkspaceShape WorkspaceShapeOf(const ModelWeights& weights, const CudaBackendOptions& o,
                                const DeviceTraits& traits) {
  WorkspaceShape shape;
  shape.config = weights.config;
  shape.max_rows = o.max_rows;
  shape.part_states = o.part_states;
  if (!traits.has_gemm) return shape;
  shape.gemm_bytes = o.gemm_bytes;
  for (const LayerWeights& w : weights.layers) {
    const std::vector<TensorView> dense = {w.q, w.k, w.v, w.attn_output, w.ffn_gate, w.ffn_up, w.ffn_down};
    shape.rounded_weight_bytes = std::max(shape.rounded_weight_bytes, CudaLinear::RoundedBytes(dense));
    if (o.f8_gemm && traits.has_f8_gemm) shape.f8_cols = std::max(shape.f8_cols, CudaLinear::F8Cols(dense));
  }
  return shape;
}

DevicePlan PlanWithoutTier(const ModelWeights& weights, const KvGeometry& geometry, const CudaBackendOptions& o,
                           const DeviceTraits& traits) {
  DevicePlan plan;
  for (const LayerWeights& w : weights.layers) plan.weights += LayerBytes(w);
  plan.weights += VectorDeviceBytes(weights.output_norm) + MatrixDeviceBytes(weights.output);
  plan.workspace = WorkspaceBytes(WorkspaceShapeOf(weights, o, traits));
  plan.window = CudaAttention::WindowBytes(geometry, AttentionOptionsOf(weights.config, o, 0));
  if (o.summary_bytes != kSummariesAsRoomAllows) {
    plan.mirror = RouteMirror::Plan(geometry, o.summary_method, o.summary_bytes);
  }
  return plan;
}

absl::StatusOr<DevicePlan> PlanDevice(const ModelWeights& weights, const KvGeometry& geometry,
                                      const CudaBackendOptions& o, const DeviceTraits& traits) {
  DevicePlan plan = PlanWithoutTier(weights, geometry, o, traits);
  plan.limit = o.device_memory_limit > 0 ? o.device_memory_limit
                                         : traits.free_bytes - std::min(traits.free_bytes, kDeviceReserve);
  const auto room = [&plan] { return plan.limit - std::min(plan.limit, plan.total()); };
  if (o.summary_bytes == kSummariesAsRoomAllows) {
    plan.mirror = RouteMirror::Plan(geometry, o.summary_method, std::min(kUsefulSummaries, room() / 2));
  }
  const uint64_t left = room();
  // Whole slots and whole units of the allocator.
  const uint64_t tier = o.device_tier_bytes == UINT64_MAX ? left / 256 * 256 : o.device_tier_bytes;
  plan.tier = CudaAttention::TierBytes(geometry, AttentionOptionsOf(weights.config, o, tier));
  if (plan.total() <= plan.limit) return plan;
  return absl::ResourceExhaustedError(absl::StrCat("the model does not fit into ", plan.limit,
                                                   " bytes of device memory:\n", DescribePlan(plan)));
}

std::string DescribePlan(const DevicePlan& plan) {
  return absl::StrCat(Line(DeviceUseName(DeviceUse::kWeights), plan.weights),
                      Line(DeviceUseName(DeviceUse::kWorkspace), plan.workspace),
                      Line(DeviceUseName(DeviceUse::kWindow), plan.window),
                      Line(DeviceUseName(DeviceUse::kSummaries), plan.mirror.bytes),
                      Line(DeviceUseName(DeviceUse::kTier), plan.tier), Line("total", plan.total()),
                      Line("limit", plan.limit));
}

}  // namespace hga
