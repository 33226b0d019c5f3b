#include "gpu_worker/plan_options.h"

#include <algorithm>

namespace hga {
namespace {

uint64_t RoutedTokens(const BudgetOptions& budget, uint64_t context) {
  const double share = std::min<double>(budget.fraction, 1) * static_cast<double>(context);
  return std::clamp<uint64_t>(static_cast<uint64_t>(share), budget.min_tokens, budget.max_tokens);
}

}  // namespace

MemoryPlanOptions PlanOptions(const EngineOptions& engine, uint64_t context_tokens, uint64_t weight_bytes) {
  MemoryPlanOptions plan;
  plan.context_tokens = context_tokens;
  plan.sequences = engine.max_sequences;
  plan.batch_tokens = engine.prefill_batch_tokens;
  plan.dense_tokens = engine.sink_tokens + std::max(engine.window_tokens, engine.prefill_window_tokens);
  plan.routed_tokens = static_cast<uint32_t>(RoutedTokens(engine.budget, context_tokens));
  plan.weight_bytes = weight_bytes;
  return plan;
}

}  // namespace hga
