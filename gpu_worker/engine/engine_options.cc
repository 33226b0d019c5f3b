#include "gpu_worker/engine/engine_options.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/kv/summary.h"

namespace hga {

uint32_t BudgetOptions::Keys(uint64_t history_tokens) const {
  double history = static_cast<double>(history_tokens);
  if (history > linear_tokens) history = std::sqrt(history * linear_tokens);
  const double wanted = std::ceil(std::min(double{fraction}, 1.0) * history);
  return static_cast<uint32_t>(std::clamp<double>(wanted, min_tokens, max_tokens));
}

void BudgetOptions::KeepAsNamed() {
  dense_decode_tokens = 0;
  linear_tokens = kAlwaysLinear;
}

absl::Status ValidateBudget(const BudgetOptions& b) {
  if (!std::isfinite(b.fraction) || b.fraction <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("budget_fraction ", b.fraction, ": must be above 0"));
  }
  if (b.linear_tokens == 0) return absl::InvalidArgumentError("budget_linear_tokens 0: must be at least 1");
  if (b.max_tokens == 0 || b.min_tokens > b.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("budget_min_tokens ", b.min_tokens, " and budget_max_tokens ",
                                                   b.max_tokens, ": the cap must be at least 1 and the floor"));
  }
  if (!(b.layer_cap >= 1 && b.layer_cap <= 64)) {
    return absl::InvalidArgumentError(absl::StrCat("budget_layer_cap ", b.layer_cap, ": must be 1 to 64"));
  }
  if (!(b.step_cap >= 1 && b.step_cap <= 64)) {
    return absl::InvalidArgumentError(absl::StrCat("budget_step_cap ", b.step_cap, ": must be 1 to 64"));
  }
  if (!(b.layer_floor >= 0 && b.layer_floor <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("budget_layer_floor ", b.layer_floor, ": must be 0 to 1"));
  }
  if (!(b.least_share >= 0 && b.least_share <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("budget_least_share ", b.least_share, ": must be 0 to 1"));
  }
  if (!(b.top_p > 0 && b.top_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("budget_top_p ", b.top_p, ": must be above 0, 1 at most"));
  }
  return absl::OkStatus();
}

absl::Status EngineOptions::Validate(const KvGeometry& g) const {
  HGA_RETURN_IF_ERROR(ValidateBudget(budget));
  HGA_RETURN_IF_ERROR(FindSummaryMethod(summary_method).status());
  const auto multiple = [](const char* flag, uint32_t value, uint32_t unit, uint32_t low) {
    if (value >= low && value <= 1u << 20 && value % unit == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, " ", value, ": must be a multiple of ", unit, ", at least ", low));
  };
  HGA_RETURN_IF_ERROR(multiple("window_tokens", window_tokens, g.chunk_tokens, g.chunk_tokens));
  HGA_RETURN_IF_ERROR(multiple("prefill_window_tokens", prefill_window_tokens, g.chunk_tokens, g.chunk_tokens));
  if (prefill_block_tokens < g.group_tokens || g.chunk_tokens % prefill_block_tokens != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--prefill_block_tokens ", prefill_block_tokens, ": must divide ",
                                                   g.chunk_tokens, ", at least ", g.group_tokens));
  }
  if (sink_tokens > 1u << 20) {
    return absl::InvalidArgumentError(absl::StrCat("--sink_tokens ", sink_tokens, ": must be at most ", 1u << 20));
  }
  HGA_RETURN_IF_ERROR(multiple("dense_prefill_tokens", dense_prefill_tokens, g.chunk_tokens, 0));
  HGA_RETURN_IF_ERROR(multiple("prefill_batch_tokens", prefill_batch_tokens, g.chunk_tokens, g.chunk_tokens));
  if (prefill_batch_tokens > prefill_window_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("--prefill_batch_tokens ", prefill_batch_tokens,
                                                   ": must not exceed --prefill_window_tokens ",
                                                   prefill_window_tokens));
  }
  if (window_tokens > prefill_window_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("--window_tokens ", window_tokens,
                                                   ": must not exceed --prefill_window_tokens ",
                                                   prefill_window_tokens));
  }
  if (max_sequences < 1 || max_sequences > prefill_batch_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max_sequences ", max_sequences, ": must be 1 to ", prefill_batch_tokens));
  }
  if (max_waiting > 100000) return absl::InvalidArgumentError("--max_waiting: must be 0 to 100000");
  return absl::OkStatus();
}

}  // namespace hga
