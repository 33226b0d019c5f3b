#include "tests/bench/synthetic_model.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "common/kv/bf16.h"
#include "gpu_worker/model/tensor_row.h"

namespace hga {
namespace {

// Tensors begin at different places of the buffers, so that no two layers are the same.
constexpr size_t kShift = 4096;
constexpr uint32_t kShifts = 1024;

}  // namespace

ModelConfig Qwen3Moe30b() {
  ModelConfig c;
  c.name = "Qwen3-30B-A3B-FP8, made up";
  c.architecture = "qwen3moe";
  c.layers = 48;
  c.hidden = 2048;
  c.ffn = 6144;
  c.query_heads = 32;
  c.kv_heads = 4;
  c.head_dim = c.rope_dims = 128;
  c.vocab_size = 151936;
  c.context_tokens = 1 << 20;
  c.rms_epsilon = 1e-6f;
  c.rope_base = 1e7f;
  c.rope_style = RopeStyle::kHalves;
  c.qk_norm = true;
  c.experts = 128;
  c.experts_per_token = 8;
  c.expert_ffn = 768;
  return c;
}

ModelConfig TinyMoe() {
  ModelConfig c = Qwen3Moe30b();
  c.name = "tiny, made up";
  c.layers = 2;
  c.hidden = 64;
  c.query_heads = 4;
  c.kv_heads = 2;
  c.head_dim = c.rope_dims = 16;
  c.vocab_size = 256;
  c.experts = 8;
  c.experts_per_token = 2;
  c.expert_ffn = 32;
  return c;
}

SyntheticModel::SyntheticModel(const ModelConfig& c) {
  const uint32_t q = c.query_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const size_t largest = size_t{c.hidden} * std::max({q, c.expert_ffn, c.hidden});
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(c.hidden)));
  bf16_.resize(kShift * kShifts + std::max<size_t>(size_t{c.vocab_size} * c.hidden, largest));
  // The numbers repeat after a while that is no multiple of any matrix row.
  constexpr size_t kPeriod = 1048573;
  for (size_t i = 0; i < std::min(bf16_.size(), kPeriod); ++i) bf16_[i] = ToBf16(normal(random)).bits;
  for (size_t i = kPeriod; i < bf16_.size(); ++i) bf16_[i] = bf16_[i - kPeriod];
  f8_.resize(kShift * kShifts + largest);
  // Sign, exponents of 1/8 to 1, any mantissa.
  for (uint8_t& x : f8_) x = static_cast<uint8_t>((random() & 0x80) | (4 + random() % 4) << 3 | (random() & 7));
  ones_.assign(std::max({c.hidden, c.head_dim, q}), 1.0f);
  const size_t tiles = size_t{TilesAlong(std::max({c.hidden, q}))} * TilesAlong(std::max({c.hidden, q, c.expert_ffn}));
  scales_.assign(tiles, 2 / std::sqrt(static_cast<float>(c.hidden)));
  weights_.config = c;
  weights_.embedding = Rounded(c.vocab_size, c.hidden, 0);
  weights_.output = Rounded(c.vocab_size, c.hidden, 1);
  weights_.output_norm = Vector(c.hidden);
  for (uint32_t layer = 0; layer < c.layers; ++layer) {
    const uint32_t seed = layer * 16;
    LayerWeights w;
    w.attn_norm = w.ffn_norm = Vector(c.hidden);
    w.q_norm = w.k_norm = Vector(c.head_dim);
    w.q = F8(q, c.hidden, seed);
    w.k = F8(kv, c.hidden, seed + 1);
    w.v = F8(kv, c.hidden, seed + 2);
    w.attn_output = F8(c.hidden, q, seed + 3);
    w.expert_router = Rounded(c.experts, c.hidden, seed + 4);
    for (uint32_t e = 0; e < c.experts; ++e) {
      w.expert_gate.push_back(F8(c.expert_ffn, c.hidden, seed + 5 + e));
      w.expert_up.push_back(F8(c.expert_ffn, c.hidden, seed + 6 + e));
      w.expert_down.push_back(F8(c.hidden, c.expert_ffn, seed + 7 + e));
    }
    weights_.layers.push_back(std::move(w));
  }
}

TensorView SyntheticModel::Vector(uint32_t size) const {
  return {TensorType::kF32, 1, size, reinterpret_cast<const uint8_t*>(ones_.data()), nullptr};
}

TensorView SyntheticModel::Rounded(uint32_t rows, uint32_t cols, uint32_t seed) const {
  const uint16_t* data = bf16_.data() + kShift * (seed % kShifts);
  return {TensorType::kBF16, rows, cols, reinterpret_cast<const uint8_t*>(data), nullptr};
}

TensorView SyntheticModel::F8(uint32_t rows, uint32_t cols, uint32_t seed) {
  return {TensorType::kF8E4M3, rows, cols, f8_.data() + kShift * (seed % kShifts), scales_.data()};
}

}  // namespace hga
