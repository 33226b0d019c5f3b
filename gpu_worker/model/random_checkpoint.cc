#include "gpu_worker/model/random_checkpoint.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/byte_alphabet.h"

namespace hga {
namespace {

using nlohmann::ordered_json;

class TensorLister {
 public:
  explicit TensorLister(const RandomCheckpointOptions& o) : o_(o) {}

  std::vector<TensorToWrite> List() {
    Plain("model.embed_tokens.weight", o_.vocab_size, o_.hidden);
    for (uint32_t i = 0; i < o_.layers; ++i) Layer(absl::StrCat("model.layers.", i, "."));
    Norm("model.norm.weight", o_.hidden);
    if (!o_.tied) Plain("lm_head.weight", o_.vocab_size, o_.hidden);
    return std::move(tensors_);
  }

 private:
  void Layer(const std::string& prefix) {
    const uint32_t q = o_.query_heads * o_.head_dim, kv = o_.kv_heads * o_.head_dim;
    const std::string attention = prefix + "self_attn.";
    Norm(prefix + "input_layernorm.weight", o_.hidden);
    Matrix(attention + "q_proj.weight", q, o_.hidden);
    Matrix(attention + "k_proj.weight", kv, o_.hidden);
    Matrix(attention + "v_proj.weight", kv, o_.hidden);
    Matrix(attention + "o_proj.weight", o_.hidden, q);
    if (o_.hf_class == "Qwen2ForCausalLM") {
      Norm(attention + "q_proj.bias", q);
      Norm(attention + "k_proj.bias", kv);
      Norm(attention + "v_proj.bias", kv);
    }
    if (o_.hf_class == "Qwen3ForCausalLM" || o_.experts > 0) {
      Norm(attention + "q_norm.weight", o_.head_dim);
      Norm(attention + "k_norm.weight", o_.head_dim);
    }
    Norm(prefix + "post_attention_layernorm.weight", o_.hidden);
    if (o_.experts == 0) return Mlp(prefix + "mlp.", o_.ffn);
    Plain(prefix + "mlp.gate.weight", o_.experts, o_.hidden);
    for (uint32_t e = 0; e < o_.experts; ++e) Mlp(absl::StrCat(prefix, "mlp.experts.", e, "."), o_.expert_ffn);
  }
  void Mlp(const std::string& prefix, uint32_t ffn) {
    Matrix(prefix + "gate_proj.weight", ffn, o_.hidden);
    Matrix(prefix + "up_proj.weight", ffn, o_.hidden);
    Matrix(prefix + "down_proj.weight", o_.hidden, ffn);
  }
  void Matrix(const std::string& name, uint64_t rows, uint64_t cols) {
    if (!o_.fp8) return Plain(name, rows, cols);
    tensors_.push_back({name, "F8_E4M3", {rows, cols}, DataFill()});
    tensors_.push_back(
        {name + "_scale_inv", o_.dtype, {(rows + 127) / 128, (cols + 127) / 128}, TensorFill::kScale, cols});
  }
  void Plain(const std::string& name, uint64_t rows, uint64_t cols) {
    tensors_.push_back({name, o_.dtype, {rows, cols}, DataFill()});
  }
  void Norm(const std::string& name, uint64_t size) { tensors_.push_back({name, o_.dtype, {size}, TensorFill::kOne}); }
  TensorFill DataFill() const { return o_.holes ? TensorFill::kHole : TensorFill::kRandom; }

  const RandomCheckpointOptions& o_;
  std::vector<TensorToWrite> tensors_;
};

// A byte-level vocabulary: <|endoftext|>, <|im_start|>, <|im_end|>, then the 256 bytes.
ordered_json TokenizerJson() {
  ordered_json vocab, added = ordered_json::array();
  const char* const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  for (uint32_t id = 0; id < 3; ++id) {
    added.push_back({{"id", id}, {"content", special[id]}, {"single_word", false}, {"lstrip", false}, {"rstrip", false},
                     {"normalized", false}, {"special", true}});
    vocab[special[id]] = id;
  }
  for (uint32_t byte = 0; byte < 256; ++byte) vocab[ToByteAlphabet(static_cast<uint8_t>(byte))] = 3 + byte;
  const ordered_json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", ordered_json::array()}}}};
}

ordered_json TokenizerConfig() {
  return {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"eos_token", "<|im_end|>"},
          {"chat_template", "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
                            "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"}};
}

absl::Status WriteJson(const std::string& path, const ordered_json& json) {
  std::ofstream stream(path);
  stream << json.dump(2) << "\n";
  stream.close();
  if (stream.fail()) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

}  // namespace

RandomCheckpointOptions Qwen3Moe30bFp8(uint32_t layers) {
  RandomCheckpointOptions o;
  o.hf_class = "Qwen3MoeForCausalLM";
  o.layers = layers;
  o.hidden = 2048;
  o.ffn = 6144;
  o.query_heads = 32;
  o.kv_heads = 4;
  o.head_dim = 128;
  o.vocab_size = 151936;
  o.context_tokens = 262144;
  o.rope_theta = 10000000;
  o.experts = 128;
  o.experts_per_token = 8;
  o.expert_ffn = 768;
  o.fp8 = true;
  return o;
}

ordered_json CheckpointConfig(const RandomCheckpointOptions& o) {
  ordered_json config = {
      {"architectures", {o.hf_class}},
      {"attention_bias", false},
      {"head_dim", o.head_dim},
      {"hidden_act", "silu"},
      {"hidden_size", o.hidden},
      {"intermediate_size", o.ffn},
      {"max_position_embeddings", o.context_tokens},
      {"num_attention_heads", o.query_heads},
      {"num_hidden_layers", o.layers},
      {"num_key_value_heads", o.kv_heads},
      {"rms_norm_eps", 1e-6},
      {"rope_scaling", nullptr},
      {"rope_theta", o.rope_theta},
      {"sliding_window", nullptr},
      {"tie_word_embeddings", o.tied},
      {"use_sliding_window", false},
      {"vocab_size", o.vocab_size},
  };
  if (o.experts > 0) {
    config["decoder_sparse_step"] = 1;
    config["mlp_only_layers"] = ordered_json::array();
    config["moe_intermediate_size"] = o.expert_ffn;
    config["norm_topk_prob"] = true;
    config["num_experts"] = o.experts;
    config["num_experts_per_tok"] = o.experts_per_token;
  }
  if (o.fp8) {
    ordered_json kept = {"lm_head"};
    for (uint32_t i = 0; i < o.layers; ++i) {
      for (const char* module : {"input_layernorm", "mlp.gate", "post_attention_layernorm"}) {
        kept.push_back(absl::StrCat("model.layers.", i, ".", module));
      }
    }
    config["quantization_config"] = {{"activation_scheme", "dynamic"},
                                     {"fmt", "e4m3"},
                                     {"modules_to_not_convert", kept},
                                     {"quant_method", "fp8"},
                                     {"weight_block_size", {128, 128}}};
  }
  return config;
}

std::vector<TensorToWrite> CheckpointTensors(const RandomCheckpointOptions& options) {
  return TensorLister(options).List();
}

absl::Status WriteRandomCheckpoint(const std::string& folder, const RandomCheckpointOptions& options) {
  HGA_RETURN_IF_ERROR(WriteJson(folder + "/config.json", CheckpointConfig(options)));
  HGA_RETURN_IF_ERROR(WriteJson(folder + "/tokenizer.json", TokenizerJson()));
  HGA_RETURN_IF_ERROR(WriteJson(folder + "/tokenizer_config.json", TokenizerConfig()));
  return WriteSafetensors(folder, CheckpointTensors(options), options.seed, options.shard_bytes);
}

}  // namespace hga
