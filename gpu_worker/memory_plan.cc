#include "gpu_worker/memory_plan.h"

#include <algorithm>

#include "gpu_worker/backend/cuda/device_plan.h"

namespace hga {
namespace {

uint64_t RoutedTokens(const BudgetOptions& budget, uint64_t context) {
  return std::max(budget.Keys(context), budget.dense_decode_tokens);
}

}  // namespace

MemoryPlan PlanMemory(const ModelWeights& weights, const SummaryMethod& method, const EngineOptions& engine,
                      uint64_t context_tokens, uint64_t device_summaries) {
  const KvGeometry geometry = weights.config.Geometry();
  CudaBackendOptions options;
  options.max_rows = std::max(engine.prefill_batch_tokens, engine.max_sequences);
  options.summary_bytes = device_summaries;
  options.summary_method = method.name;
  const DevicePlan device = PlanWithoutTier(weights, geometry, options, DeviceTraits());
  const uint64_t token = geometry.bytes_per_token();
  const uint64_t attended = engine.sink_tokens + engine.window_tokens + geometry.chunk_tokens +
                            RoutedTokens(engine.budget, context_tokens);
  MemoryPlan plan;
  plan.weights = device.weights;
  plan.workspace = device.workspace;
  plan.window = device.window;
  plan.summaries = device.mirror.bytes;
  plan.runtime = kDeviceReserve;
  plan.step_kv = engine.max_sequences * std::min(attended, context_tokens) * token;
  plan.kv_store = context_tokens * token;
  plan.router = (context_tokens + geometry.chunk_tokens - 1) / geometry.chunk_tokens * method.chunk_bytes(geometry);
  return plan;
}

}  // namespace hga
