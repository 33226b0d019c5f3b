#include "gpu_worker/model/token_work.h"

#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint8_t kSomewhere[1] = {};

TensorView F32(uint32_t rows, uint32_t cols) { return {TensorType::kF32, rows, cols, kSomewhere}; }

ModelWeights OneLayer() {
  ModelWeights weights;
  weights.embedding = weights.output = F32(100, 8);
  weights.output_norm = F32(1, 8);
  LayerWeights layer;
  layer.attn_norm = layer.ffn_norm = F32(1, 8);
  layer.q = layer.attn_output = F32(8, 8);
  layer.k = layer.v = F32(4, 8);
  weights.layers.push_back(layer);
  return weights;
}

TEST(TokenWorkTest, DenseModelReadsAllButTheEmbedding) {
  ModelWeights weights = OneLayer();
  LayerWeights& layer = weights.layers[0];
  layer.ffn_gate = layer.ffn_up = F32(16, 8);
  layer.ffn_down = F32(8, 16);
  const TokenWork work = CountTokenWork(weights);
  const uint64_t matrices = 2 * 64 + 2 * 32 + 3 * 128;
  EXPECT_EQ(work.layer_parameters, matrices);
  EXPECT_EQ(work.output_parameters, 800u);
  EXPECT_EQ(work.decode_bytes, 4 * (matrices + 800 + 3 * 8 + 8));  // three norms, one row of the embedding
}

TEST(TokenWorkTest, OfExpertsOnlyThoseChosen) {
  ModelWeights weights = OneLayer();
  LayerWeights& layer = weights.layers[0];
  weights.config.experts = 4;
  weights.config.experts_per_token = 2;
  layer.expert_router = F32(4, 8);
  layer.expert_gate = layer.expert_up = std::vector<TensorView>(4, F32(5, 8));
  layer.expert_down = std::vector<TensorView>(4, F32(8, 5));
  const TokenWork work = CountTokenWork(weights);
  const uint64_t matrices = 2 * 64 + 2 * 32 + 32 + 2 * 3 * 40;
  EXPECT_EQ(work.layer_parameters, matrices);
  EXPECT_EQ(work.decode_bytes, 4 * (matrices + 800 + 3 * 8 + 8));
}

TEST(TokenWorkTest, QuantisedWeightsCountAsStored) {
  ModelWeights weights;
  weights.output = {TensorType::kQ8_0, 2, 32, kSomewhere};
  EXPECT_EQ(CountTokenWork(weights).decode_bytes, 2 * 34u);
}

}  // namespace
}  // namespace hga
