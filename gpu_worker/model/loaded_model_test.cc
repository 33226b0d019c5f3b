#include "gpu_worker/model/loaded_model.h"

#include <cmath>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/temporary_folder.h"
#include "gpu_worker/model/test_model_dir.h"
#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using namespace std::string_literals;

std::string Text(const std::string& text) {
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + text;
}
std::string Type(uint32_t type) { return std::string(reinterpret_cast<const char*>(&type), sizeof(type)); }

class LoadedModelTest : public ::testing::Test {
 protected:
  std::string Write(const TinyModelOptions& options, const std::string& name = "tiny.gguf") {
    const absl::Status status = WriteTinyGguf(folder_.File(name), options);
    EXPECT_TRUE(status.ok()) << status;
    return folder_.File(name);
  }
  // A tiny model's file with `from` replaced by `to`, of the same length.
  std::string Patched(const std::string& from, const std::string& to) {
    const std::string path = Write(TinyModelOptions());
    std::ifstream stream(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    const size_t at = bytes.find(from);
    EXPECT_EQ(from.size(), to.size());
    EXPECT_NE(at, std::string::npos) << from;
    std::ofstream(path, std::ios::binary) << bytes.replace(at, to.size(), to);
    return path;
  }
  void ExpectRefused(const std::string& path, absl::StatusCode code, const std::string& what) {
    const auto status = LoadModel(path).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), path)) << status;
  }
  ModelFingerprint FingerprintOf(const std::string& path) {
    const auto model = LoadModel(path);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? (*model)->fingerprint : ModelFingerprint();
  }

  const TemporaryFolder folder_;
};

TEST_F(LoadedModelTest, TinyModelsOfEveryTypeLoad) {
  for (TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16, TensorType::kQ4_0, TensorType::kQ4_1,
                          TensorType::kQ5_0, TensorType::kQ5_1, TensorType::kQ8_0, TensorType::kQ4_K,
                          TensorType::kQ5_K, TensorType::kQ6_K}) {
    SCOPED_TRACE(TensorTypeName(type));
    TinyModelOptions options;
    options.type = type;
    options.hidden = options.ffn = 256;
    options.head_dim = 64;
    const auto model = LoadModel(Write(options));
    ASSERT_TRUE(model.ok()) << model.status();
    const TensorView down = (*model)->weights.layers[1].ffn_down;
    ASSERT_EQ(down.type, type);
    double squares = 0;
    std::vector<float> row(down.cols);
    for (uint32_t r = 0; r < down.rows; ++r) {
      DequantizeRow(type, down.row(r), down.cols, row.data());
      for (float x : row) squares += double{x} * x;
    }
    // Weights of variance 1/fan_in keep the width of what flows through.
    EXPECT_NEAR(std::sqrt(squares / down.rows), 1.0, 0.1);
  }
}

TEST_F(LoadedModelTest, ConfigTokenizerAndTemplateComeFromTheFile) {
  TinyModelOptions options;
  options.layers = 3;
  options.context_tokens = 512;
  const auto model = LoadModel(Write(options));
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelConfig& config = (*model)->weights.config;
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.layers, 3u);
  EXPECT_EQ(config.query_heads, 4u);
  EXPECT_EQ(config.kv_heads, 2u);
  EXPECT_EQ(config.head_dim, 16u);
  EXPECT_EQ(config.rope_dims, 16u);
  EXPECT_EQ(config.context_tokens, 512u);
  EXPECT_EQ(config.rope_style, RopeStyle::kAdjacentPairs);
  EXPECT_EQ(config.vocab_size, (*model)->tokenizer->vocab_size());
  EXPECT_EQ((*model)->weights.layers.size(), 3u);
  EXPECT_EQ((*model)->weights.output.data, (*model)->weights.embedding.data);  // tied
  EXPECT_EQ((*model)->tokenizer->eos(), 2u);
  EXPECT_TRUE((*model)->chat_template.ok());
  EXPECT_EQ((*model)->tokenizer->Encode("the", false)->size(), 1u);
}

TEST_F(LoadedModelTest, UntiedOutputIsItsOwnTensor) {
  TinyModelOptions options;
  options.tied = false;
  const auto model = LoadModel(Write(options));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_NE((*model)->weights.output.data, (*model)->weights.embedding.data);
}

TEST_F(LoadedModelTest, FingerprintIsOfTheContentNotThePlace) {
  TinyModelOptions options, other_seed, other_context;
  other_seed.seed = 2;
  other_context.context_tokens = 999;
  const ModelFingerprint first = FingerprintOf(Write(options, "a.gguf"));
  EXPECT_EQ(first, FingerprintOf(Write(options, "b.gguf")));
  EXPECT_NE(first, FingerprintOf(Write(other_seed)));
  EXPECT_EQ(first, FingerprintOf(Write(other_context)));  // does not change K or V
}

TEST_F(LoadedModelTest, FingerprintSeesTheLastByteOfATensor) {
  const std::string path = Write(TinyModelOptions());
  const ModelFingerprint first = FingerprintOf(path);
  const auto model = LoadModel(path);
  ASSERT_TRUE(model.ok());
  const TensorView up = (*model)->weights.layers[0].ffn_up;
  ASSERT_GT(up.rows * up.row_bytes(), 4096u);  // more than one slice
  const size_t last = up.data + up.rows * up.row_bytes() - 1 - (*model)->weights.embedding.data;
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::string head(reinterpret_cast<const char*>((*model)->weights.embedding.data), 64);
  file.clear();
  file.seekp(bytes.find(head) + last);
  file.put(static_cast<char>(bytes[bytes.find(head) + last] ^ 1));
  file.close();
  EXPECT_NE(first, FingerprintOf(path));
}

TEST_F(LoadedModelTest, RefusesWhatItCannotRunRight) {
  ExpectRefused(folder_.File("none.gguf"), absl::StatusCode::kNotFound, "no model file");
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(Patched("\x05\0\0\0\0\0\0\0llama\x0c"s, "\x05\0\0\0\0\0\0\0qwen9\x0c"s), invalid,
                "architecture 'qwen9' is not supported; there are: llama, qwen2, qwen3, qwen3moe");
  ExpectRefused(Patched("llama.block_count", "llama.block_cnt__"), absl::StatusCode::kNotFound, "llama.block_count");
  ExpectRefused(Patched("blk.1.ffn_up.weight", "blk.1.ffn_UP.weight"), absl::StatusCode::kNotFound,
                "no tensor 'blk.1.ffn_up.weight'");
  ExpectRefused(Patched("smollm", "qwen-2"), invalid, "tokenizer.ggml.pre is 'qwen-2'");
  ExpectRefused(Patched("\x04\0\0\0\0\0\0\0gpt2"s, "\x04\0\0\0\0\0\0\0bert"s), invalid,
                "tokenizer.ggml.model is 'bert'");
}

TEST_F(LoadedModelTest, RefusesWeightsThatAreNotNumbers) {
  TinyModelOptions options;
  options.type = TensorType::kF32;
  const std::string path = Write(options);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(-4, std::ios::end);  // the last element of the last tensor
  file << "\x00\x00\xc0\x7f"s;
  file.close();
  ExpectRefused(path, absl::StatusCode::kInvalidArgument, "is infinite or not a number");
}

TEST_F(LoadedModelTest, RefusesWrongShapes) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const auto count = [](const std::string& key, uint32_t value) {
    return key + std::string("\x04\0\0\0", 4) + std::string(reinterpret_cast<const char*>(&value), 4);
  };
  const std::string ffn = "llama.feed_forward_length", heads = "llama.attention.head_count_kv";
  ExpectRefused(Patched(count(ffn, 128), count(ffn, 96)), invalid,
                "tensor 'blk.0.ffn_gate.weight' is 128 x 64, expected 96 x 64");
  ExpectRefused(Patched(count(heads, 2), count(heads, 3)), invalid, "head");
  // One layer fewer than the file holds: what is left over is not ignored.
  const std::string layers = "llama.block_count";
  ExpectRefused(Patched(count(layers, 2), count(layers, 1)), invalid, "tensor 'blk.1.attn_norm.weight' has no place");
}

TEST_F(LoadedModelTest, RefusesRopeScaling) {
  // Keys of a length that the tiny model has a value of the right kind for.
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(Patched(Text("general.name") + Type(8) + Text("tiny random model"),
                        Text("llama.rope.scaling.type") + Type(8) + Text("yarn__")),
                invalid, "RoPE scaling 'yarn__' is not supported");
}

TEST_F(LoadedModelTest, UnknownChatTemplateStillLoads) {
  const std::string path = Patched("<|im_start|>' +", "<|im_STaRT|>' +");
  const auto model = LoadModel(path);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->chat_template.status().code(), absl::StatusCode::kFailedPrecondition);
  const auto forced = LoadModel(path, "chatml");
  ASSERT_TRUE(forced.ok()) << forced.status();
  EXPECT_TRUE((*forced)->chat_template.ok());
  EXPECT_EQ(LoadModel(path, "llama2").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LoadedModelTest, TinyModelSaysWhichWidthsItCannotMake) {
  TinyModelOptions options;
  options.type = TensorType::kQ6_K;
  const absl::Status status = WriteTinyGguf(folder_.File("x"), options);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "256 for Q6_K")) << status;
}

// Whatever byte of the header is wrong, loading ends with a status (the sanitizers watch).
TEST_F(LoadedModelTest, DamagedHeadersNeverCrash) {
  TinyModelOptions options;
  options.layers = 1;
  options.hidden = options.ffn = 32;
  options.head_dim = 8;
  const std::string path = Write(options);
  std::ifstream stream(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  const size_t header = bytes.find("output_norm.weight") + 1500;  // to the end of the tensor list
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 250; ++i) {
    const size_t at = random() % header;
    const char kept = bytes[at];
    bytes[at] = static_cast<char>(random());
    std::ofstream(path, std::ios::binary) << bytes;
    refused += LoadModel(path).ok() ? 0 : 1;
    bytes[at] = kept;
  }
  EXPECT_GT(refused, 100);
}

TEST_F(LoadedModelTest, RealModelLoads) {
  if (RealModelPath().empty()) GTEST_SKIP() << kNoRealModel;
  const auto model = LoadModel(RealModelPath());
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelWeights& weights = (*model)->weights;
  EXPECT_EQ(weights.config.layers, 30u);
  EXPECT_EQ(weights.config.head_dim, 64u);
  EXPECT_EQ(weights.config.vocab_size, 49152u);
  EXPECT_EQ(weights.config.context_tokens, 8192u);
  EXPECT_EQ(weights.config.rope_base, 100000.0f);
  EXPECT_EQ(weights.embedding.type, TensorType::kQ8_0);
  EXPECT_EQ(weights.layers[29].ffn_down.type, TensorType::kQ4_1);
  EXPECT_EQ(weights.output.data, weights.embedding.data);
  EXPECT_NEAR(static_cast<double>((*model)->parameters), 134.5e6, 0.1e6);
}

}  // namespace
}  // namespace hga
