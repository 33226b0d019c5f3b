// What the weights cost one token: the base of speeds in FLOP and bytes.
#ifndef HGA_GPU_WORKER_MODEL_TOKEN_WORK_H_
#define HGA_GPU_WORKER_MODEL_TOKEN_WORK_H_

#include <cstdint>

#include "gpu_worker/model/weights.h"

namespace hga {

struct TokenWork {
  // Elements of the layers' matrices that a token is multiplied with; of experts, config.experts_per_token a layer.
  uint64_t layer_parameters = 0;
  // Elements of the output projection.
  uint64_t output_parameters = 0;
  // Bytes of all weights that a decode step of one token reads, as they are stored: norms, biases, scales and the
  // token's row of the embedding included.
  uint64_t decode_bytes = 0;
};

TokenWork CountTokenWork(const ModelWeights& weights);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKEN_WORK_H_
