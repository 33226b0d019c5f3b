#include "gpu_worker/model/hf_model.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/temporary_folder.h"
#include "gpu_worker/model/fingerprint.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gpu_worker/model/tensor_list.h"
#include "gpu_worker/model/tensor_row.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr char kFile[] = "model.safetensors";

RandomCheckpointOptions SmallMoe() {
  RandomCheckpointOptions o;
  o.hf_class = "Qwen3MoeForCausalLM";
  o.experts = 4;
  o.experts_per_token = 2;
  o.expert_ffn = 96;
  o.hidden = 160;  // two tiles, the second one cut off
  return o;
}

class HfModelTest : public ::testing::Test {
 protected:
  void Write(const RandomCheckpointOptions& options) {
    const absl::Status status = WriteRandomCheckpoint(folder_.path(), options);
    ASSERT_TRUE(status.ok()) << status;
  }
  // Without the tensor of that name, or with another one instead.
  void WriteChanged(const RandomCheckpointOptions& options, const std::string& name, const TensorToWrite* instead) {
    Write(options);
    std::vector<TensorToWrite> tensors;
    for (const TensorToWrite& t : CheckpointTensors(options)) {
      if (t.name != name) tensors.push_back(t);
    }
    if (instead != nullptr) tensors.push_back(*instead);
    const absl::Status status = WriteSafetensors(folder_.path(), tensors, 1);
    ASSERT_TRUE(status.ok()) << status;
  }
  std::unique_ptr<HfModel> Read(HfRead read = HfRead::kRunnable) {
    auto model = ReadHfModel(folder_.path(), read);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }
  void ExpectRefused(absl::StatusCode code, const std::string& what) {
    const absl::Status status = ReadHfModel(folder_.path()).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), folder_.path())) << status;
  }
  // Overwrites the first element of a tensor.
  template <typename T>
  void Patch(const std::string& name, T value) {
    const auto checkpoint = SafetensorsCheckpoint::Open(folder_.path());
    ASSERT_TRUE(checkpoint.ok());
    ASSERT_NE((*checkpoint)->Find(name), nullptr);
    std::fstream file(folder_.File(kFile), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(Offset(**checkpoint, name)));
    file.write(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  // Of a tensor in the file: the tensors end with the file, so it is the distance of the addresses.
  static uint64_t Offset(const SafetensorsCheckpoint& checkpoint, const std::string& name) {
    const uint8_t* end = nullptr;
    for (const auto& [other, tensor] : checkpoint.tensors()) end = std::max(end, tensor.data + tensor.bytes);
    return checkpoint.file_bytes() - static_cast<uint64_t>(end - checkpoint.Find(name)->data);
  }

  const absl::StatusCode invalid_ = absl::StatusCode::kInvalidArgument, missing_ = absl::StatusCode::kNotFound;
  TemporaryFolder folder_;
};

TEST_F(HfModelTest, EveryFamilyAndTypeLoads) {
  for (const char* family : {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"}) {
    for (const char* dtype : {"F32", "F16", "BF16"}) {
      for (bool fp8 : {false, true}) {
        SCOPED_TRACE(absl::StrCat(family, " ", dtype, fp8 ? " fp8" : ""));
        RandomCheckpointOptions o = SmallMoe();
        if (std::string(family) != "Qwen3MoeForCausalLM") o.experts = 0;
        o.hf_class = family;
        o.dtype = dtype;
        o.fp8 = fp8;
        Write(o);
        if (fp8 && o.dtype == "F16") {
          ExpectRefused(invalid_, "weight_scale_inv' is F16, expected F32 or BF16");
          continue;
        }
        const auto model = Read();
        ASSERT_NE(model, nullptr);
        const LayerWeights& layer = model->weights.layers[1];
        EXPECT_EQ(layer.q.type, fp8 ? TensorType::kF8E4M3 : model->weights.embedding.type);
        EXPECT_EQ(layer.q.tile_scales != nullptr, fp8);
        EXPECT_EQ(layer.q_bias.present(), std::string(family) == "Qwen2ForCausalLM");
        EXPECT_EQ(layer.q_norm.present(), o.experts > 0 || std::string(family) == "Qwen3ForCausalLM");
        EXPECT_EQ(layer.expert_down.size(), o.experts);
        EXPECT_EQ(layer.attn_norm.type, TensorType::kF32);
        // Rows of variance 1 keep the width of what flows through.
        std::vector<float> row(layer.q.cols);
        DequantizeTensorRow(layer.q, 3, row.data());
        double squares = 0;
        for (float x : row) squares += double{x} * x;
        EXPECT_GT(squares, 0.2);
        EXPECT_LT(squares, 4);
      }
    }
  }
}

TEST_F(HfModelTest, MatricesAreViewsAndFloatsAreNotCopied) {
  RandomCheckpointOptions o;
  o.dtype = "F32";
  Write(o);
  const auto model = Read();
  ASSERT_NE(model, nullptr);
  EXPECT_TRUE(model->converted.empty());
  EXPECT_EQ(model->weights.layers[0].q.data,
            model->checkpoint->Find("model.layers.0.self_attn.q_proj.weight")->data);
  EXPECT_EQ(model->weights.config.rope_style, RopeStyle::kHalves);
}

TEST_F(HfModelTest, TiedOutputIsTheEmbedding) {
  RandomCheckpointOptions o;
  o.tied = true;
  Write(o);
  const auto tied = Read();
  ASSERT_NE(tied, nullptr);
  EXPECT_EQ(tied->weights.output.data, tied->weights.embedding.data);
  // A checkpoint may keep the copy that it does not need.
  const TensorToWrite copy{"lm_head.weight", "BF16", {259, 64}};
  WriteChanged(o, "", &copy);
  const auto with_copy = Read();
  ASSERT_NE(with_copy, nullptr);
  EXPECT_EQ(with_copy->weights.output.data, with_copy->weights.embedding.data);
  WriteChanged(RandomCheckpointOptions(), "lm_head.weight", nullptr);
  ExpectRefused(missing_, "no tensor 'lm_head.weight', and config.json does not say tie_word_embeddings");
}

TEST_F(HfModelTest, RefusesMissingAndWrongTensors) {
  const RandomCheckpointOptions o;
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  WriteChanged(o, name, nullptr);
  ExpectRefused(missing_, "no tensor 'model.layers.1.mlp.up_proj.weight'");
  TensorToWrite wrong{name, "BF16", {64, 128}};
  WriteChanged(o, name, &wrong);
  ExpectRefused(invalid_, "tensor 'model.layers.1.mlp.up_proj.weight' is [64, 128], expected [128, 64] by config.json");
  wrong = {name, "I32", {128, 64}, TensorFill::kHole};
  WriteChanged(o, name, &wrong);
  ExpectRefused(invalid_, "is I32, expected F32, F16, BF16 or F8_E4M3");
  const TensorToWrite extra{"model.layers.0.self_attn.o_proj.bias", "BF16", {64}};
  WriteChanged(o, "", &extra);
  ExpectRefused(invalid_, "tensor 'model.layers.0.self_attn.o_proj.bias' has no place in a llama model");
  const TensorToWrite buffer{"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {8}};
  WriteChanged(o, "", &buffer);
  EXPECT_NE(Read(), nullptr);
}

TEST_F(HfModelTest, RefusesWrongScales) {
  RandomCheckpointOptions o = SmallMoe();
  o.fp8 = true;
  const std::string name = "model.layers.1.mlp.experts.3.down_proj.weight_scale_inv";
  WriteChanged(o, name, nullptr);
  ExpectRefused(missing_, absl::StrCat("no tensor '", name, "', the scales of model.layers.1.mlp.experts.3.down_proj"));
  const TensorToWrite wrong{name, "BF16", {1, 2}, TensorFill::kScale, 96};
  WriteChanged(o, name, &wrong);
  ExpectRefused(invalid_, absl::StrCat("'", name, "' is [1, 2], expected [2, 1]: one scale for each 128 x 128 tile"));
  for (uint16_t bits : {0x7fc0, 0x7f80, 0xff80, 0xbf80}) {  // not a number, both infinities, -1
    Write(o);
    Patch(name, bits);
    ExpectRefused(invalid_,
                  absl::StrCat("tensor '", name, "' holds a scale that is negative, infinite or not a number"));
  }
  o.dtype = "F32";
  Write(o);
  EXPECT_NE(Read(), nullptr);
  Patch(name, std::nanf(""));
  ExpectRefused(invalid_, name);
  Write(o);
  Patch("model.layers.0.self_attn.q_norm.weight", std::numeric_limits<float>::infinity());
  ExpectRefused(invalid_, "tensor 'model.layers.0.self_attn.q_norm.weight' holds a value that is infinite");
}

TEST_F(HfModelTest, Fp8NeedsItsConfiguration) {
  RandomCheckpointOptions o;
  o.fp8 = true;
  Write(o);
  auto config = CheckpointConfig(o);
  config.erase("quantization_config");
  folder_.Write("config.json", config.dump());
  ExpectRefused(invalid_, "is F8_E4M3, but config.json has no quantization_config");
}

TEST_F(HfModelTest, RefusesOtherPaths) {
  ExpectRefused(missing_, "config.json");
  EXPECT_EQ(ReadHfModel("/nowhere/at/all").status().code(), missing_);
  Write(RandomCheckpointOptions());
  std::filesystem::remove(folder_.File(kFile));
  std::filesystem::create_directory(folder_.File(kFile));
  ExpectRefused(invalid_, "is a folder, expected a file");
}

// Two layers of the published checkpoint: names, shapes, types, and what they add up to.
TEST_F(HfModelTest, PublishedQwen3MoeFp8Layout) {
  RandomCheckpointOptions o = Qwen3Moe30bFp8(2);
  o.holes = true;
  o.shard_bytes = uint64_t{1} << 30;
  Write(o);
  const auto model = Read();
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->checkpoint->file_count(), 3u);
  const ModelWeights& w = model->weights;
  const LayerWeights& layer = w.layers[1];
  const auto expect = [](const TensorView& view, TensorType type, uint32_t rows, uint32_t cols) {
    EXPECT_EQ(view.type, type);
    EXPECT_EQ(view.rows, rows);
    EXPECT_EQ(view.cols, cols);
    EXPECT_EQ(view.tile_scales != nullptr, type == TensorType::kF8E4M3);
  };
  expect(w.embedding, TensorType::kBF16, 151936, 2048);
  expect(w.output, TensorType::kBF16, 151936, 2048);
  expect(layer.q, TensorType::kF8E4M3, 4096, 2048);
  expect(layer.k, TensorType::kF8E4M3, 512, 2048);
  expect(layer.v, TensorType::kF8E4M3, 512, 2048);
  expect(layer.attn_output, TensorType::kF8E4M3, 2048, 4096);
  expect(layer.q_norm, TensorType::kF32, 1, 128);
  expect(layer.expert_router, TensorType::kBF16, 128, 2048);
  ASSERT_EQ(layer.expert_gate.size(), 128u);
  expect(layer.expert_gate[127], TensorType::kF8E4M3, 768, 2048);
  expect(layer.expert_up[127], TensorType::kF8E4M3, 768, 2048);
  expect(layer.expert_down[127], TensorType::kF8E4M3, 2048, 768);
  EXPECT_FALSE(layer.ffn_gate.present());
  // Each FP8 matrix with its scales; router and four norms a layer; embedding, norm and output.
  EXPECT_EQ(model->checkpoint->tensors().size(), 3 + 2 * (2 * (4 + 3 * 128) + 1 + 4));
  const uint64_t layer_matrices = uint64_t{4096} * 2048 * 2 + uint64_t{512} * 2048 * 2 + uint64_t{128} * 3 * 768 * 2048;
  const uint64_t parameters =
      uint64_t{2} * 151936 * 2048 + 2048 + 2 * (layer_matrices + 128 * 2048 + 2 * 2048 + 2 * 128);
  EXPECT_EQ(CountParameters(w), parameters);
  // With all 48 layers: 30.5 billion, as the model card has it.
  EXPECT_NEAR((parameters - uint64_t{2} * 151936 * 2048) / 2.0 * 48 + 2.0 * 151936 * 2048, 30.5e9, 0.05e9);
}

TEST_F(HfModelTest, HeadersAloneTellTheSameSizes) {
  RandomCheckpointOptions o = SmallMoe();
  o.fp8 = true;
  Write(o);
  const auto whole = Read(), headers = Read(HfRead::kHeadersOnly);
  ASSERT_NE(whole, nullptr);
  ASSERT_NE(headers, nullptr);
  EXPECT_EQ(CountParameters(whole->weights), CountParameters(headers->weights));
  EXPECT_TRUE(headers->converted.empty());
  EXPECT_FALSE(whole->converted.empty());
}

TEST_F(HfModelTest, ShardsHaveTheFingerprintOfTheWhole) {
  RandomCheckpointOptions o;
  o.holes = true;  // so that both files hold the same
  Write(o);
  const ModelFingerprint whole = Fingerprint(Read()->weights);
  std::filesystem::remove(folder_.File(kFile));
  o.shard_bytes = 10000;
  Write(o);
  const auto sharded = Read();
  ASSERT_NE(sharded, nullptr);
  EXPECT_GT(sharded->checkpoint->file_count(), 3u);
  EXPECT_EQ(Fingerprint(sharded->weights), whole);
}

}  // namespace
}  // namespace hga
