#include "gpu_worker/backend/expert_choice.h"

#include <algorithm>
#include <cmath>

namespace hga {

std::vector<ExpertShare> ChooseExperts(const ModelConfig& config, const double* logits) {
  const double top = *std::max_element(logits, logits + config.experts);
  std::vector<ExpertShare> shares(config.experts);
  double sum = 0;
  for (uint32_t e = 0; e < config.experts; ++e) sum += (shares[e] = {e, std::exp(logits[e] - top)}).weight;
  const auto better = [](const ExpertShare& a, const ExpertShare& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.expert < b.expert;
  };
  std::partial_sort(shares.begin(), shares.begin() + config.experts_per_token, shares.end(), better);
  shares.resize(config.experts_per_token);
  if (config.normalize_expert_weights) {
    sum = 0;
    for (const ExpertShare& share : shares) sum += share.weight;
  }
  for (ExpertShare& share : shares) share.weight /= sum;
  return shares;
}

}  // namespace hga
