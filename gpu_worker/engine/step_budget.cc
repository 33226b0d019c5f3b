#include "gpu_worker/engine/step_budget.h"

#include <algorithm>
#include <utility>

#include "absl/numeric/bits.h"

namespace hga {

StepBudget::StepBudget(const BudgetOptions& options, const KvGeometry& geometry, std::vector<uint32_t> budgets,
                       uint32_t range_keys)
    : options_(options), layers_(geometry.layers), kv_heads_(geometry.kv_heads), budgets_([&] {
        for (uint32_t& budget : budgets) budget = budget >= range_keys ? kEverything : budget;
        return std::move(budgets);
      }()) {
  const double step_cap = budgets_.size() > 1 ? 1.0 : double{options_.step_cap};
  for (const uint32_t budget : budgets_) {
    left_.push_back(static_cast<uint64_t>(step_cap * budget * layers_ * kv_heads_));
    if (budget != kEverything) most_ = std::max(most_, budget);
  }
}

void StepBudget::FillRoute(uint32_t layer, const float* attended, RouteBlock* route) {
  route->budget_keys = budgets_.data();
  if (!options_.shared || most_ == 0) return;
  this_layer_ = budgets_;
  const double later = layers_ - layer - 1;
  for (size_t r = 0; r < this_layer_.size(); ++r) {
    if (budgets_[r] == kEverything) continue;
    const double budget = budgets_[r], left = static_cast<double>(left_[r]) / kv_heads_;
    const double most = std::min(double{options_.layer_cap} * budget, left - later * options_.layer_floor * budget);
    this_layer_[r] = static_cast<uint32_t>(std::max(most, 0.0));
  }
  route->budget_keys = this_layer_.data();
  route->shared = true;
  route->attended = attended;
  route->least_share = std::min(1.0f, options_.least_share / static_cast<float>(most_));
  route->top_p = options_.top_p;
}

void StepBudget::Spend(const std::vector<HeadSelection>& selection) {
  if (!options_.shared) return;
  std::vector<uint64_t> added(left_.size() + 1, 0);  // by the row from which on they count
  for (const HeadSelection& head : selection) {
    for (const SelectedChunk& s : head) added[std::min<size_t>(s.first_token, left_.size())] += absl::popcount(s.mask);
  }
  uint64_t keys = 0;
  for (size_t r = 0; r < left_.size(); ++r) {
    keys += added[r];
    left_[r] -= std::min(left_[r], keys);
  }
}

}  // namespace hga
