// Models with made-up weights of given shapes, in a fraction of their size: all tensors are views into one buffer.
#ifndef HGA_TESTS_BENCH_SYNTHETIC_MODEL_H_
#define HGA_TESTS_BENCH_SYNTHETIC_MODEL_H_

#include <cstdint>
#include <vector>

#include "gpu_worker/model/weights.h"

namespace hga {

// Qwen3-30B-A3B, and a shape small enough for the emulator.
ModelConfig Qwen3Moe30b();
ModelConfig TinyMoe();

// Weights of such a model: projections and experts in FP8 with 128x128 scales, the rest bf16 and f32. Outputs of every
// matrix are of the size of its input, and experts are chosen evenly.
class SyntheticModel {
 public:
  explicit SyntheticModel(const ModelConfig& config);
  const ModelWeights& weights() const { return weights_; }

 private:
  TensorView Vector(uint32_t size) const;
  TensorView Rounded(uint32_t rows, uint32_t cols, uint32_t seed) const;
  TensorView F8(uint32_t rows, uint32_t cols, uint32_t seed);

  std::vector<uint16_t> bf16_;
  std::vector<uint8_t> f8_;
  std::vector<float> ones_, scales_;
  ModelWeights weights_;
};

}  // namespace hga

#endif  // HGA_TESTS_BENCH_SYNTHETIC_MODEL_H_
