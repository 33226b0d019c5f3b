#include "gpu_worker/engine/step_budget.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/numeric/bits.h"

namespace hga {

StepBudget::StepBudget(const BudgetOptions& options, const KvGeometry& geometry, std::vector<uint32_t> budgets,
                       uint32_t range_keys)
    : options_(options), layers_(geometry.layers), kv_heads_(geometry.kv_heads), budgets_([&] {
        for (uint32_t& budget : budgets) budget = budget >= range_keys ? kEverything : budget;
        return std::move(budgets);
      }()) {
  for (const uint32_t budget : budgets_) {
    if (budget != kEverything) most_ = std::max(most_, budget);
  }
  left_ = static_cast<uint64_t>(double{options_.step_cap} * most_ * layers_ * kv_heads_);
}

void StepBudget::FillRoute(uint32_t layer, const float* attended, RouteBlock* route) {
  route->budget_keys = budgets_.data();
  route->residual = options_.residual;
  if (!options_.shared || most_ == 0) return;
  route->shared = true;
  route->attended = attended;
  route->least_share = LeastShare();
  route->top_p = options_.top_p;
  if (!layers_share()) return;
  const double later = layers_ - layer - 1, budget = most_, left = static_cast<double>(left_) / kv_heads_;
  const double most = std::min(double{options_.layer_cap} * budget, left - later * options_.layer_floor * budget);
  this_layer_ = static_cast<uint32_t>(std::max(most, 0.0));
  route->budget_keys = &this_layer_;
}

float StepBudget::LeastShare() const {
  // So that steps read their budget on average, of 400 keys and of 900 (docs/quality.md).
  constexpr double kBudgetOfLeastShare = 384, kFall = 0.75;
  const double even_shares = options_.least_share * std::pow(kBudgetOfLeastShare / most_, kFall);
  return static_cast<float>(std::min(1.0, even_shares / most_));
}

void StepBudget::Spend(const std::vector<HeadSelection>& selection) {
  if (!layers_share()) return;
  uint64_t keys = 0;
  for (const HeadSelection& head : selection) {
    for (const SelectedChunk& s : head) keys += absl::popcount(s.mask);
  }
  left_ -= std::min(left_, keys);
}

}  // namespace hga
