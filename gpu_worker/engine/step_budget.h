// How a token's budget is shared out over the layers of its step.
//
// Layers want very different numbers of keys (the first ones most). With BudgetOptions::shared a layer may take up to
// layer_cap budgets, as long as the step keeps to step_cap budgets a layer on average and layer_floor of one is left
// for each later layer; what a layer leaves goes to those. In a prefill chunk only the KV heads share: each layer has
// the chunk's budget. Nothing is carried from one step to the next, so a token's selection depends on its position and
// history alone.
#ifndef HGA_GPU_WORKER_ENGINE_STEP_BUDGET_H_
#define HGA_GPU_WORKER_ENGINE_STEP_BUDGET_H_

#include <cstdint>
#include <vector>

#include "gpu_worker/engine/attend_plan.h"
#include "gpu_worker/engine/engine_options.h"

namespace hga {

// Of the rows of one block in one step. Step thread only.
class StepBudget {
 public:
  // budgets: [rows] keys per KV head and layer, on average. range_keys: keys that can be selected at all; a budget of
  // as many selects everything.
  StepBudget(const BudgetOptions& options, const KvGeometry& geometry, std::vector<uint32_t> budgets,
             uint32_t range_keys);

  // Fills what a route block says of the budget; its pointers stay valid until the next call. attended: [rows][query
  // heads] of the block's rows (Backend::LogSumExp).
  void FillRoute(uint32_t layer, const float* attended, RouteBlock* route);
  // Takes off what a layer selected: [kv_heads].
  void Spend(const std::vector<HeadSelection>& selection);

 private:
  // What the rows of a chunk find together fills any cap: early layers would take from all later ones.
  // Of the attention, that a key needs at least.
  float LeastShare() const;
  bool layers_share() const { return options_.shared && budgets_.size() == 1; }

  // Constant after construction.
  const BudgetOptions options_;
  const uint32_t layers_, kv_heads_;
  const std::vector<uint32_t> budgets_;
  uint32_t most_ = 0;  // of the budgets that do not select everything

  uint64_t left_ = 0;        // keys of all layers and KV heads
  uint32_t this_layer_ = 0;  // keys per KV head
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_STEP_BUDGET_H_
