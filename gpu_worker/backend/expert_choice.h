// Which experts of a layer a token goes to: shared by the backends on the host.
#ifndef HGA_GPU_WORKER_BACKEND_EXPERT_CHOICE_H_
#define HGA_GPU_WORKER_BACKEND_EXPERT_CHOICE_H_

#include <cstdint>
#include <vector>

#include "gpu_worker/model/config.h"

namespace hga {

struct ExpertShare {
  uint32_t expert = 0;
  double weight = 0;
};

// Softmax over all experts, the best experts_per_token of them, their weights made to sum to 1 where the model says so
// (norm_topk_prob). Equal weights: the lower expert first. logits: [experts]. Best first.
std::vector<ExpertShare> ChooseExperts(const ModelConfig& config, const double* logits);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_EXPERT_CHOICE_H_
