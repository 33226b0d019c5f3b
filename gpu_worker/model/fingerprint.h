// Identity of a model: names its K/V in every store.
#ifndef HGA_GPU_WORKER_MODEL_FINGERPRINT_H_
#define HGA_GPU_WORKER_MODEL_FINGERPRINT_H_

#include <functional>

#include "common/kv/ids.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// Of everything that a key or value depends on: each tensor's type, shape and a sample of its bytes, and the
// configuration with its RoPE settings; the K/V layout joins it in SeedHash. Not of names, paths or context length:
// the same model from two places has the same. Reads a few pages of each tensor, which takes long from a slow disk:
// `progress` is told the share that is done.
ModelFingerprint Fingerprint(const ModelWeights& weights, const std::function<void(double)>& progress = nullptr);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_FINGERPRINT_H_
