#include "gpu_worker/model/hf_config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/json_file.h"

namespace hga {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = 4 << 20;

struct Family {
  const char* hf_class;
  const char* architecture;
  bool qkv_bias, qk_norm, experts;
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", false, false, false},
    {"Qwen2ForCausalLM", "qwen2", true, false, false},
    {"Qwen3ForCausalLM", "qwen3", false, true, false},
    {"Qwen3MoeForCausalLM", "qwen3moe", false, true, true},
};

absl::StatusOr<const Family*> FindFamily(const JsonFields& fields) {
  HGA_ASSIGN_OR_RETURN(const json* names, fields.GetArray("architectures"));
  const std::string name =
      names != nullptr && names->size() == 1 && names->front().is_string() ? names->front().get<std::string>() : "";
  std::string known;
  for (const Family& family : kFamilies) {
    if (name == family.hf_class) return &family;
    absl::StrAppend(&known, known.empty() ? "" : ", ", family.hf_class);
  }
  return fields.WrongField("architectures", absl::StrCat("one of ", known));
}

absl::Status ReadShape(const JsonFields& fields, ModelConfig* c) {
  HGA_ASSIGN_OR_RETURN(c->layers, fields.GetUint("num_hidden_layers"));
  HGA_ASSIGN_OR_RETURN(c->hidden, fields.GetUint("hidden_size"));
  HGA_ASSIGN_OR_RETURN(c->ffn, fields.GetUint("intermediate_size"));
  HGA_ASSIGN_OR_RETURN(c->query_heads, fields.GetUint("num_attention_heads"));
  HGA_ASSIGN_OR_RETURN(c->kv_heads, fields.GetUint("num_key_value_heads", c->query_heads));
  HGA_ASSIGN_OR_RETURN(c->vocab_size, fields.GetUint("vocab_size"));
  HGA_ASSIGN_OR_RETURN(c->context_tokens, fields.GetUint("max_position_embeddings"));
  HGA_ASSIGN_OR_RETURN(c->rms_epsilon, fields.GetFloat("rms_norm_eps", 1e-6f));
  if (!fields.Has("head_dim") && (c->query_heads == 0 || c->hidden % c->query_heads != 0)) {
    return fields.Wrong(absl::StrCat("hidden_size ", c->hidden, " does not divide into ", c->query_heads,
                                     " heads, and 'head_dim' is missing"));
  }
  HGA_ASSIGN_OR_RETURN(c->head_dim, fields.GetUint("head_dim", c->query_heads == 0 ? 0 : c->hidden / c->query_heads));
  c->rope_dims = c->head_dim;
  c->rope_style = RopeStyle::kHalves;
  return absl::OkStatus();
}

absl::Status ReadExperts(const JsonFields& fields, ModelConfig* c) {
  // transformers 5 writes the count under another name.
  HGA_ASSIGN_OR_RETURN(c->experts, fields.GetUint(fields.Has("num_experts") ? "num_experts" : "num_local_experts"));
  HGA_ASSIGN_OR_RETURN(c->experts_per_token, fields.GetUint("num_experts_per_tok"));
  HGA_ASSIGN_OR_RETURN(c->expert_ffn, fields.GetUint("moe_intermediate_size"));
  HGA_ASSIGN_OR_RETURN(c->normalize_expert_weights, fields.GetBool("norm_topk_prob", false));
  HGA_ASSIGN_OR_RETURN(const uint32_t step, fields.GetUint("decoder_sparse_step", 1));
  HGA_ASSIGN_OR_RETURN(const json* dense, fields.GetArray("mlp_only_layers"));
  if (step != 1) return fields.WrongField("decoder_sparse_step", "1: experts in every layer");
  if (dense != nullptr && !dense->empty()) return fields.WrongField("mlp_only_layers", "[]: experts in every layer");
  if (c->experts == 0 || c->experts > 1024) {
    return fields.Wrong(absl::StrCat(c->experts, " experts, expected 1 to 1024"));
  }
  if (c->experts_per_token == 0 || c->experts_per_token > c->experts) {
    return fields.WrongField("num_experts_per_tok", absl::StrCat("1 to ", c->experts));
  }
  if (c->expert_ffn == 0 || c->expert_ffn > 1 << 20) return fields.WrongField("moe_intermediate_size", "1 to 1048576");
  return absl::OkStatus();
}

// What changes the result and is not done here.
absl::Status RefuseOthers(const JsonFields& fields, const Family& family) {
  for (const char* flag : {"attention_bias", "mlp_bias", "use_sliding_window", "use_mrope"}) {
    HGA_ASSIGN_OR_RETURN(const bool set, fields.GetBool(flag, false));
    if (set) return fields.WrongField(flag, "false; such models are not supported");
  }
  HGA_ASSIGN_OR_RETURN(const std::string activation, fields.GetString("hidden_act", "silu"));
  if (activation != "silu") return fields.WrongField("hidden_act", "silu");
  HGA_ASSIGN_OR_RETURN(const json* layer_types, fields.GetArray("layer_types"));
  for (size_t i = 0; layer_types != nullptr && i < layer_types->size(); ++i) {
    if ((*layer_types)[i] != "full_attention") {
      return fields.Wrong(absl::StrCat("layer_types[", i, "] is not full_attention; sliding-window and linear layers ",
                                       "are not supported"));
    }
  }
  // The Qwen families only use the window with use_sliding_window.
  if (std::string(family.architecture) == "llama" && fields.Has("sliding_window")) {
    return fields.WrongField("sliding_window", "null; sliding windows are not supported");
  }
  HGA_ASSIGN_OR_RETURN(const float rotary, fields.GetFloat("partial_rotary_factor", 1));
  if (rotary != 1) return fields.WrongField("partial_rotary_factor", "1");
  return absl::OkStatus();
}

// 0.1 m ln(factor) + 1, as YaRN's paper has it with m = 1.
float YarnMagnitude(float factor, float m) { return factor <= 1 ? 1 : 0.1f * m * std::log(factor) + 1; }

absl::Status ReadYarn(const JsonFields& fields, ModelConfig* c) {
  RopeScaling& s = c->rope_scaling;
  HGA_ASSIGN_OR_RETURN(s.beta_fast, fields.GetFloat("beta_fast", 32));
  HGA_ASSIGN_OR_RETURN(s.beta_slow, fields.GetFloat("beta_slow", 1));
  HGA_ASSIGN_OR_RETURN(s.attention_factor, fields.GetFloat("attention_factor", 0));
  HGA_ASSIGN_OR_RETURN(const float mscale, fields.GetFloat("mscale", 0));
  HGA_ASSIGN_OR_RETURN(const float mscale_all_dim, fields.GetFloat("mscale_all_dim", 0));
  HGA_ASSIGN_OR_RETURN(const bool truncate, fields.GetBool("truncate", true));
  if (!truncate) return fields.WrongField("truncate", "true");
  if (!(s.beta_fast > s.beta_slow && s.beta_slow > 0)) return fields.WrongField("beta_fast", "more than beta_slow > 0");
  if (s.attention_factor < 0) return fields.WrongField("attention_factor", "a positive number");
  if (s.attention_factor == 0 && mscale != 0 && mscale_all_dim != 0) {
    s.attention_factor = YarnMagnitude(s.factor, mscale) / YarnMagnitude(s.factor, mscale_all_dim);
  }
  return absl::OkStatus();
}

absl::Status ReadLlama3(const JsonFields& fields, ModelConfig* c) {
  RopeScaling& s = c->rope_scaling;
  HGA_ASSIGN_OR_RETURN(s.low_frequency_factor, fields.GetFloat("low_freq_factor"));
  HGA_ASSIGN_OR_RETURN(s.high_frequency_factor, fields.GetFloat("high_freq_factor"));
  if (!fields.Has("original_max_position_embeddings")) {
    return fields.WrongField("original_max_position_embeddings", "the context before scaling");
  }
  if (s.low_frequency_factor > 0 && s.high_frequency_factor > s.low_frequency_factor) return absl::OkStatus();
  return fields.WrongField("high_freq_factor", "more than low_freq_factor > 0");
}

// `fields` are those of rope_scaling or rope_parameters.
absl::Status ReadScaling(const JsonFields& fields, ModelConfig* c) {
  HGA_ASSIGN_OR_RETURN(const std::string old_name, fields.GetString("type", "default"));
  HGA_ASSIGN_OR_RETURN(const std::string type, fields.GetString("rope_type", old_name));
  HGA_ASSIGN_OR_RETURN(const float rotary, fields.GetFloat("partial_rotary_factor", 1));
  if (rotary != 1) return fields.WrongField("partial_rotary_factor", "1");
  if (type == "default") return absl::OkStatus();
  RopeScaling& s = c->rope_scaling;
  s.kind = type == "linear"   ? RopeScaling::Kind::kLinear
           : type == "llama3" ? RopeScaling::Kind::kLlama3
           : type == "yarn"   ? RopeScaling::Kind::kYarn
                              : RopeScaling::Kind::kNone;
  if (s.kind == RopeScaling::Kind::kNone) {
    return fields.WrongField(fields.Has("rope_type") ? "rope_type" : "type", "default, linear, llama3 or yarn");
  }
  HGA_ASSIGN_OR_RETURN(s.factor, fields.GetFloat("factor"));
  HGA_ASSIGN_OR_RETURN(s.original_context, fields.GetUint("original_max_position_embeddings", c->context_tokens));
  if (!(s.factor >= 1 && s.factor <= 1024)) return fields.WrongField("factor", "1 to 1024");
  if (s.original_context == 0 || s.original_context > 1 << 24) {
    return fields.WrongField("original_max_position_embeddings", "1 to 16777216");
  }
  if (s.kind == RopeScaling::Kind::kYarn) HGA_RETURN_IF_ERROR(ReadYarn(fields, c));
  if (s.kind == RopeScaling::Kind::kLlama3) return ReadLlama3(fields, c);
  // Some files give the context before scaling, some the one after it.
  const double stretched = double{s.factor} * s.original_context;
  c->context_tokens = std::max(c->context_tokens, static_cast<uint32_t>(std::min<double>(stretched, 1 << 24)));
  return absl::OkStatus();
}

absl::Status ReadRope(const JsonFields& fields, ModelConfig* c) {
  HGA_ASSIGN_OR_RETURN(c->rope_base, fields.GetFloat("rope_theta", 10000));
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    HGA_ASSIGN_OR_RETURN(const json* object, fields.GetObject(name));
    if (object == nullptr) continue;
    const JsonFields rope(*object, fields.file(), absl::StrCat(name, "."));
    HGA_ASSIGN_OR_RETURN(c->rope_base, rope.GetFloat("rope_theta", c->rope_base));
    return ReadScaling(rope, c);
  }
  return absl::OkStatus();
}

absl::Status ReadQuantization(const JsonFields& fields, HfConfig* out) {
  HGA_ASSIGN_OR_RETURN(const json* object, fields.GetObject("quantization_config"));
  if (object == nullptr) return absl::OkStatus();
  const JsonFields quant(*object, fields.file(), "quantization_config.");
  HGA_ASSIGN_OR_RETURN(const std::string method, quant.GetString("quant_method", ""));
  HGA_ASSIGN_OR_RETURN(const std::string format, quant.GetString("fmt", "e4m3"));
  HGA_ASSIGN_OR_RETURN(const json* block, quant.GetArray("weight_block_size"));
  if (method != "fp8") return quant.WrongField("quant_method", "fp8; other quantisations are read from GGUF files");
  if (format != "e4m3") return quant.WrongField("fmt", "e4m3");
  if (block == nullptr || *block != json::array({128, 128})) return quant.WrongField("weight_block_size", "[128,128]");
  out->fp8_tiles = true;
  return absl::OkStatus();
}

absl::StatusOr<HfConfig> ReadFields(const JsonFields& fields) {
  HfConfig out;
  ModelConfig& c = out.model;
  HGA_ASSIGN_OR_RETURN(const Family* family, FindFamily(fields));
  c.architecture = family->architecture;
  c.qkv_bias = family->qkv_bias;
  c.qk_norm = family->qk_norm;
  HGA_RETURN_IF_ERROR(ReadShape(fields, &c));
  HGA_RETURN_IF_ERROR(RefuseOthers(fields, *family));
  if (family->experts) HGA_RETURN_IF_ERROR(ReadExperts(fields, &c));
  HGA_RETURN_IF_ERROR(ReadRope(fields, &c));
  HGA_RETURN_IF_ERROR(ReadQuantization(fields, &out));
  HGA_ASSIGN_OR_RETURN(out.tied, fields.GetBool("tie_word_embeddings", false));
  if (const absl::Status status = c.Validate(); !status.ok()) return fields.Wrong(std::string(status.message()));
  return out;
}

}  // namespace

absl::StatusOr<HfConfig> ReadHfConfig(const std::string& path) {
  HGA_ASSIGN_OR_RETURN(const json object, ReadJsonFile(path, kMaxConfigBytes));
  return ReadFields(JsonFields(object, path));
}

absl::StatusOr<HfConfig> ParseHfConfig(absl::string_view text, const std::string& file) {
  HGA_ASSIGN_OR_RETURN(const json object, ParseJsonObject(text, file));
  return ReadFields(JsonFields(object, file));
}

}  // namespace hga
