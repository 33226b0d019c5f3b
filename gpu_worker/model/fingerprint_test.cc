#include "gpu_worker/model/fingerprint.h"

#include <functional>
#include <string>
#include <vector>

#include "common/kv/ids.h"
#include "gpu_worker/model/tensor_list.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// Weights that own their bytes: one layer, every tensor of 8 x 1024 or 1 x 1024 floats.
class Model {
 public:
  Model() {
    weights.config.architecture = "llama";
    weights.config.layers = 1;
    weights.layers.resize(1);
    LayerWeights& layer = weights.layers[0];
    for (TensorView* view : {&weights.embedding, &weights.output, &layer.q, &layer.ffn_down}) Fill(8, view);
    for (TensorView* view : {&weights.output_norm, &layer.attn_norm, &layer.ffn_norm}) Fill(1, view);
  }
  // The bytes of a tensor, to be changed.
  uint8_t* Bytes(const TensorView& view) { return const_cast<uint8_t*>(view.data); }
  void Fill(uint32_t rows, TensorView* view) {
    buffers_.emplace_back(rows * 1024 * sizeof(float), static_cast<uint8_t>(buffers_.size() + 1));
    *view = {TensorType::kF32, rows, 1024, buffers_.back().data()};
  }

  ModelWeights weights;

 private:
  std::vector<std::vector<uint8_t>> buffers_;
};

ModelFingerprint After(const std::function<void(Model*)>& change) {
  Model model;
  change(&model);
  return Fingerprint(model.weights);
}

const ModelFingerprint& Unchanged() {
  static const ModelFingerprint print = Fingerprint(Model().weights);
  return print;
}

TEST(FingerprintTest, IsOfTheContentNotThePlaceOrTheName) {
  EXPECT_EQ(Unchanged(), After([](Model*) {}));
  EXPECT_EQ(Unchanged(), After([](Model* m) { m->weights.config.name = "another"; }));
  EXPECT_EQ(Unchanged(), After([](Model* m) { m->weights.config.context_tokens = 99; }));
}

TEST(FingerprintTest, CoversEveryFieldThatChangesAKeyOrValue) {
  const std::vector<std::pair<const char*, std::function<void(ModelConfig*)>>> changes = {
      {"architecture", [](ModelConfig* c) { c->architecture = "qwen2"; }},
      {"layers", [](ModelConfig* c) { ++c->layers; }},
      {"hidden", [](ModelConfig* c) { ++c->hidden; }},
      {"ffn", [](ModelConfig* c) { ++c->ffn; }},
      {"query_heads", [](ModelConfig* c) { ++c->query_heads; }},
      {"kv_heads", [](ModelConfig* c) { ++c->kv_heads; }},
      {"head_dim", [](ModelConfig* c) { ++c->head_dim; }},
      {"rms_epsilon", [](ModelConfig* c) { c->rms_epsilon = 1.0000001e-5f; }},
      {"rope_base", [](ModelConfig* c) { c->rope_base = 10000.001f; }},
      {"rope_dims", [](ModelConfig* c) { ++c->rope_dims; }},
      {"rope_style", [](ModelConfig* c) { c->rope_style = RopeStyle::kHalves; }},
      {"rope_scaling.kind", [](ModelConfig* c) { c->rope_scaling.kind = RopeScaling::Kind::kYarn; }},
      {"rope_scaling.factor", [](ModelConfig* c) { c->rope_scaling.factor = 2; }},
      {"rope_scaling.original_context", [](ModelConfig* c) { c->rope_scaling.original_context = 1; }},
      {"rope_scaling.low", [](ModelConfig* c) { c->rope_scaling.low_frequency_factor = 2; }},
      {"rope_scaling.high", [](ModelConfig* c) { c->rope_scaling.high_frequency_factor = 5; }},
      {"rope_scaling.beta_fast", [](ModelConfig* c) { c->rope_scaling.beta_fast = 31; }},
      {"rope_scaling.beta_slow", [](ModelConfig* c) { c->rope_scaling.beta_slow = 2; }},
      {"rope_scaling.attention_factor", [](ModelConfig* c) { c->rope_scaling.attention_factor = 2; }},
      {"rope_scaling.divisors", [](ModelConfig* c) { c->rope_scaling.divisors = {1, 2}; }},
      {"qkv_bias", [](ModelConfig* c) { c->qkv_bias = true; }},
      {"qk_norm", [](ModelConfig* c) { c->qk_norm = true; }},
      {"experts", [](ModelConfig* c) { ++c->experts; }},
      {"experts_per_token", [](ModelConfig* c) { ++c->experts_per_token; }},
      {"expert_ffn", [](ModelConfig* c) { ++c->expert_ffn; }},
      {"normalize_expert_weights", [](ModelConfig* c) { c->normalize_expert_weights = false; }},
  };
  for (const auto& [field, change] : changes) {
    const auto& apply = change;
    EXPECT_NE(Unchanged(), After([&](Model* m) { apply(&m->weights.config); })) << field;
  }
}

TEST(FingerprintTest, CoversTypeShapeAndBytesOfEveryTensor) {
  Model model;
  for (const NamedTensor& tensor : ListTensors(model.weights)) {
    uint8_t* bytes = model.Bytes(tensor.view);
    for (size_t at : {size_t{0}, tensor.view.rows * tensor.view.row_bytes() - 1}) {
      bytes[at] ^= 1;
      EXPECT_NE(Unchanged(), Fingerprint(model.weights)) << tensor.name << " " << at;
      bytes[at] ^= 1;
    }
  }
  EXPECT_EQ(Unchanged(), Fingerprint(model.weights));
  EXPECT_NE(Unchanged(), After([](Model* m) { m->weights.layers[0].q.type = TensorType::kF16; }));
  EXPECT_NE(Unchanged(), After([](Model* m) { m->weights.layers[0].q.rows = 7; }));
  EXPECT_NE(Unchanged(), After([](Model* m) { std::swap(m->weights.layers[0].q.rows, m->weights.layers[0].q.cols); }));
  EXPECT_NE(Unchanged(), After([](Model* m) { std::swap(m->weights.layers[0].q, m->weights.layers[0].ffn_down); }));
  EXPECT_NE(Unchanged(), After([](Model* m) { m->weights.output = m->weights.embedding; }));
  EXPECT_NE(Unchanged(), After([](Model* m) { m->Fill(1, &m->weights.layers[0].q_bias); }));
  EXPECT_NE(Unchanged(), After([](Model* m) {
              m->weights.layers[0].expert_up.resize(2);
              m->Fill(8, &m->weights.layers[0].expert_up[1]);
            }));
}

TEST(FingerprintTest, CoversTileScales) {
  Model model;
  TensorView& q = model.weights.layers[0].q;
  q.type = TensorType::kF8E4M3;
  std::vector<float> scales(TileScaleCount(q), 1);
  ASSERT_EQ(scales.size(), 8u);  // 1 x 8 tiles
  q.tile_scales = scales.data();
  const ModelFingerprint before = Fingerprint(model.weights);
  scales.back() = 1.0000001f;
  EXPECT_NE(before, Fingerprint(model.weights));
}

// The layout of K/V joins the model in the first hash of every chain.
TEST(FingerprintTest, SeedCoversTheLayout) {
  const KvGeometry geometry = {2, 4, 2, 16, 64, 16};
  const ChunkHash seed = SeedHash(Unchanged(), geometry);
  EXPECT_EQ(seed, SeedHash(Unchanged(), geometry));
  EXPECT_NE(seed, SeedHash(ModelFingerprint(), geometry));
  for (auto field : {&KvGeometry::layers, &KvGeometry::kv_heads, &KvGeometry::head_dim, &KvGeometry::chunk_tokens,
                     &KvGeometry::group_tokens}) {
    KvGeometry other = geometry;
    other.*field *= 2;
    EXPECT_NE(seed, SeedHash(Unchanged(), other));
  }
}

}  // namespace
}  // namespace hga
