#include "gpu_worker/model/hf_config.h"

#include <string>

#include "absl/strings/match.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using nlohmann::ordered_json;

ordered_json Llama() { return CheckpointConfig(RandomCheckpointOptions()); }

absl::StatusOr<HfConfig> Parse(const ordered_json& json) { return ParseHfConfig(json.dump(), "x/config.json"); }

void ExpectRefused(const ordered_json& json, const std::string& what) {
  const absl::Status status = Parse(json).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
  EXPECT_TRUE(absl::StartsWith(status.message(), "x/config.json: ")) << status;
}

ordered_json With(const std::string& field, const ordered_json& value) {
  ordered_json json = Llama();
  json[field] = value;
  return json;
}

TEST(HfConfigTest, PublishedQwen3MoeFp8) {
  const auto config = Parse(CheckpointConfig(Qwen3Moe30bFp8(48)));
  ASSERT_TRUE(config.ok()) << config.status();
  const ModelConfig& c = config->model;
  EXPECT_EQ(c.architecture, "qwen3moe");
  EXPECT_EQ(c.layers, 48u);
  EXPECT_EQ(c.hidden, 2048u);
  EXPECT_EQ(c.query_heads, 32u);
  EXPECT_EQ(c.kv_heads, 4u);
  EXPECT_EQ(c.head_dim, 128u);
  EXPECT_EQ(c.rope_dims, 128u);
  EXPECT_EQ(c.rope_style, RopeStyle::kHalves);
  EXPECT_EQ(c.rope_base, 1e7f);
  EXPECT_EQ(c.context_tokens, 262144u);
  EXPECT_EQ(c.experts, 128u);
  EXPECT_EQ(c.experts_per_token, 8u);
  EXPECT_EQ(c.expert_ffn, 768u);
  EXPECT_TRUE(c.normalize_expert_weights);
  EXPECT_TRUE(c.qk_norm);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_TRUE(config->fp8_tiles);
  EXPECT_FALSE(config->tied);
}

TEST(HfConfigTest, FamiliesDifferInBiasesAndNorms) {
  const auto family = [](const char* name) {
    const auto config = Parse(With("architectures", {name}));
    EXPECT_TRUE(config.ok()) << config.status();
    return config->model;
  };
  EXPECT_FALSE(family("LlamaForCausalLM").qkv_bias || family("LlamaForCausalLM").qk_norm);
  EXPECT_TRUE(family("Qwen2ForCausalLM").qkv_bias);
  EXPECT_TRUE(family("Qwen3ForCausalLM").qk_norm);
  ExpectRefused(With("architectures", {"GPT2LMHeadModel"}),
                "'architectures' is [\"GPT2LMHeadModel\"], expected one of");
  ExpectRefused(With("architectures", nullptr), "'architectures' is missing");
}

TEST(HfConfigTest, DefaultsAreThoseOfTheReference) {
  ordered_json json = Llama();
  for (const char* field : {"num_key_value_heads", "head_dim", "rope_theta", "rms_norm_eps", "tie_word_embeddings"}) {
    json.erase(field);
  }
  const auto config = Parse(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model.kv_heads, 4u);
  EXPECT_EQ(config->model.head_dim, 16u);
  EXPECT_EQ(config->model.rope_base, 10000.0f);
  EXPECT_EQ(config->model.rms_epsilon, 1e-6f);
  EXPECT_FALSE(config->tied);
}

TEST(HfConfigTest, RopeScalingOfBothForms) {
  const ordered_json llama3 = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 256}};
  ordered_json parameters = llama3;
  parameters["rope_theta"] = 500000.0;
  for (const ordered_json& json : {With("rope_scaling", llama3), With("rope_parameters", parameters)}) {
    const auto config = Parse(json);
    ASSERT_TRUE(config.ok()) << config.status();
    const RopeScaling& s = config->model.rope_scaling;
    EXPECT_EQ(s.kind, RopeScaling::Kind::kLlama3);
    EXPECT_EQ(s.factor, 8.0f);
    EXPECT_EQ(s.original_context, 256u);
    EXPECT_EQ(s.high_frequency_factor, 4.0f);
    EXPECT_EQ(config->model.context_tokens, 2048u);
  }
  EXPECT_EQ(Parse(With("rope_parameters", parameters))->model.rope_base, 500000.0f);
  const auto plain = Parse(With("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}));
  EXPECT_EQ(plain->model.rope_scaling.kind, RopeScaling::Kind::kNone);
  EXPECT_EQ(plain->model.rope_base, 1e6f);
}

TEST(HfConfigTest, YarnAndLinearStretchTheContext) {
  const auto yarn = Parse(With("rope_scaling", {{"type", "yarn"}, {"factor", 4.0},
                                                {"original_max_position_embeddings", 2048}}));
  ASSERT_TRUE(yarn.ok()) << yarn.status();
  EXPECT_EQ(yarn->model.rope_scaling.kind, RopeScaling::Kind::kYarn);
  EXPECT_EQ(yarn->model.rope_scaling.beta_fast, 32.0f);
  EXPECT_EQ(yarn->model.rope_scaling.attention_factor, 0.0f);
  EXPECT_EQ(yarn->model.context_tokens, 8192u);
  // A file that gives the context after scaling.
  const auto after = Parse(With("rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0},
                                                 {"original_max_position_embeddings", 512}}));
  EXPECT_EQ(after->model.context_tokens, 2048u);
  const auto linear = Parse(With("rope_scaling", {{"type", "linear"}, {"factor", 2.0}}));
  EXPECT_EQ(linear->model.rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(linear->model.context_tokens, 4096u);
  const auto magnitude = Parse(With("rope_scaling", {{"type", "yarn"}, {"factor", 40.0}, {"mscale", 0.707},
                                                     {"mscale_all_dim", 1.0}}));
  EXPECT_NEAR(magnitude->model.rope_scaling.attention_factor, 1.26080 / 1.36889, 1e-4);
}

TEST(HfConfigTest, RefusesWhatItCannotRunRight) {
  const auto rope = [](const ordered_json& value) { return With("rope_scaling", value); };
  ExpectRefused(rope({{"type", "dynamic"}, {"factor", 2.0}}), "'rope_scaling.type' is \"dynamic\"");
  ExpectRefused(rope({{"rope_type", "longrope"}}), "'rope_scaling.rope_type' is \"longrope\"");
  ExpectRefused(rope({{"type", "linear"}}), "'rope_scaling.factor' is missing");
  ordered_json endless = rope({{"type", "linear"}, {"factor", 2.0}, {"original_max_position_embeddings", 2048}});
  endless["max_position_embeddings"] = (1 << 24) + 1;
  ExpectRefused(endless, "context_tokens");
  ExpectRefused(rope({{"type", "linear"}, {"factor", 0}}), "'rope_scaling.factor' is 0, expected 1 to 1024");
  ExpectRefused(rope({{"type", "yarn"}, {"factor", 4}, {"truncate", false}}), "'rope_scaling.truncate' is false");
  ExpectRefused(rope({{"type", "yarn"}, {"factor", 4}, {"beta_fast", 1}, {"beta_slow", 2}}), "more than beta_slow");
  ExpectRefused(rope({{"type", "llama3"}, {"factor", 4}, {"low_freq_factor", 4}, {"high_freq_factor", 4},
                      {"original_max_position_embeddings", 9}}), "more than low_freq_factor");
  ExpectRefused(rope("yarn"), "'rope_scaling' is \"yarn\", expected an object");
  ExpectRefused(With("use_sliding_window", true), "'use_sliding_window' is true");
  ExpectRefused(With("sliding_window", 4096), "sliding windows are not supported");
  ExpectRefused(With("layer_types", {"full_attention", "sliding_attention"}), "layer_types[1] is not full_attention");
  ExpectRefused(With("attention_bias", true), "'attention_bias' is true");
  ExpectRefused(With("hidden_act", "gelu"), "'hidden_act' is \"gelu\", expected silu");
  ExpectRefused(With("partial_rotary_factor", 0.5), "'partial_rotary_factor' is 0.5");
  ExpectRefused(With("quantization_config", {{"quant_method", "awq"}}),
                "'quantization_config.quant_method' is \"awq\"");
  ExpectRefused(With("quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", {64, 64}}}),
                "'quantization_config.weight_block_size' is [64,64]");
  ExpectRefused(With("quantization_config", {{"quant_method", "fp8"}}), "weight_block_size' is missing");
}

TEST(HfConfigTest, QwenKeepsAWindowThatItDoesNotUse) {
  ordered_json json = With("sliding_window", 32768);
  json["architectures"] = {"Qwen2ForCausalLM"};
  json["use_sliding_window"] = false;
  EXPECT_TRUE(Parse(json).ok()) << Parse(json).status();
}

TEST(HfConfigTest, RefusesWrongFields) {
  ExpectRefused(With("hidden_size", "64"), "'hidden_size' is \"64\", expected a whole number");
  ExpectRefused(With("hidden_size", -64), "'hidden_size' is -64");
  ExpectRefused(With("hidden_size", 1e30), "'hidden_size'");
  ExpectRefused(With("vocab_size", 0), "vocab_size is 0");
  ExpectRefused(With("vocab_size", nullptr), "'vocab_size' is missing");
  ExpectRefused(With("rope_theta", std::string(1000, 'x')), "..., expected a number");
  ExpectRefused(With("num_attention_heads", 0), "head");
  ordered_json json = Llama();
  json.erase("head_dim");
  json["num_attention_heads"] = 7;
  ExpectRefused(json, "hidden_size 64 does not divide into 7 heads");
  json = CheckpointConfig(Qwen3Moe30bFp8(2));
  json["num_experts_per_tok"] = 129;
  ExpectRefused(json, "'num_experts_per_tok' is 129, expected 1 to 128");
  json["num_experts_per_tok"] = 8;
  json["decoder_sparse_step"] = 2;
  ExpectRefused(json, "'decoder_sparse_step' is 2");
  EXPECT_TRUE(absl::StrContains(ParseHfConfig("{", "c").status().message(), "c: is not JSON"));
  EXPECT_TRUE(absl::StrContains(ParseHfConfig("[]", "c").status().message(), "expected a JSON object"));
}

TEST(HfConfigTest, ExpertsOfTransformers5) {
  ordered_json json = CheckpointConfig(Qwen3Moe30bFp8(2));
  json["num_local_experts"] = json["num_experts"];
  json.erase("num_experts");
  const auto config = Parse(json);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model.experts, 128u);
}

}  // namespace
}  // namespace hga
