#include "gpu_worker/model/gguf_model.h"

#include <cmath>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

absl::Status Wrong(const GgufFile& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("model ", file.path(), ": ", what));
}

struct Family {
  const char* architecture;
  bool qkv_bias, qk_norm, experts;
  RopeStyle rope_style;
};
// llama.cpp's converter permutes the query and key rows of llama models, so that RoPE turns neighbours.
constexpr Family kFamilies[] = {
    {"llama", false, false, false, RopeStyle::kAdjacentPairs},
    {"qwen2", true, false, false, RopeStyle::kHalves},
    {"qwen3", false, true, false, RopeStyle::kHalves},
    {"qwen3moe", false, true, true, RopeStyle::kHalves},
};

// Metadata of a model, under its architecture's name.
class Metadata {
 public:
  Metadata(const GgufFile& file, std::string architecture) : file_(file), prefix_(std::move(architecture) + ".") {}

  std::string Key(const std::string& name) const { return prefix_ + name; }
  bool Has(const std::string& name) const { return file_.Has(Key(name)); }
  absl::StatusOr<uint32_t> Uint(const std::string& name) const {
    HGA_ASSIGN_OR_RETURN(const uint64_t value, file_.GetUint(Key(name)));
    if (value > UINT32_MAX) return Wrong(file_, absl::StrCat(Key(name), " is ", value));
    return static_cast<uint32_t>(value);
  }
  absl::StatusOr<uint32_t> Uint(const std::string& name, uint32_t otherwise) const {
    if (!Has(name)) return otherwise;
    return Uint(name);
  }
  absl::StatusOr<float> Float(const std::string& name) const { return file_.GetFloat(Key(name)); }
  absl::StatusOr<float> Float(const std::string& name, float otherwise) const {
    if (!Has(name)) return otherwise;
    return Float(name);
  }
  absl::StatusOr<std::string> String(const std::string& name, const std::string& otherwise) const {
    if (!Has(name)) return otherwise;
    return file_.GetString(Key(name));
  }
  const GgufFile& file() const { return file_; }

 private:
  const GgufFile& file_;
  const std::string prefix_;
};

absl::StatusOr<const Family*> FindFamily(const GgufFile& file) {
  HGA_ASSIGN_OR_RETURN(const std::string architecture, file.GetString("general.architecture"));
  std::string known;
  for (const Family& family : kFamilies) {
    if (architecture == family.architecture) return &family;
    absl::StrAppend(&known, known.empty() ? "" : ", ", family.architecture);
  }
  return Wrong(file, absl::StrCat("architecture '", architecture, "' is not supported; there are: ", known));
}

absl::Status ReadShape(const Metadata& m, ModelConfig* c) {
  HGA_ASSIGN_OR_RETURN(c->layers, m.Uint("block_count"));
  HGA_ASSIGN_OR_RETURN(c->hidden, m.Uint("embedding_length"));
  HGA_ASSIGN_OR_RETURN(c->ffn, m.Uint("feed_forward_length"));
  HGA_ASSIGN_OR_RETURN(c->query_heads, m.Uint("attention.head_count"));
  HGA_ASSIGN_OR_RETURN(c->kv_heads, m.Uint("attention.head_count_kv", c->query_heads));
  HGA_ASSIGN_OR_RETURN(c->context_tokens, m.Uint("context_length"));
  HGA_ASSIGN_OR_RETURN(c->rms_epsilon, m.Float("attention.layer_norm_rms_epsilon"));
  if (!m.Has("attention.key_length") && (c->query_heads == 0 || c->hidden % c->query_heads != 0)) {
    return Wrong(m.file(), absl::StrCat("width ", c->hidden, " does not divide into ", c->query_heads, " heads"));
  }
  HGA_ASSIGN_OR_RETURN(c->head_dim,
                       m.Uint("attention.key_length", c->query_heads == 0 ? 0 : c->hidden / c->query_heads));
  HGA_ASSIGN_OR_RETURN(const uint32_t value_length, m.Uint("attention.value_length", c->head_dim));
  if (value_length != c->head_dim) {
    return Wrong(m.file(), absl::StrCat("values of ", value_length, " elements, keys of ", c->head_dim,
                                        "; models where they differ are not supported"));
  }
  HGA_ASSIGN_OR_RETURN(c->rope_dims, m.Uint("rope.dimension_count", c->head_dim));
  HGA_ASSIGN_OR_RETURN(c->rope_base, m.Float("rope.freq_base", 10000));
  HGA_ASSIGN_OR_RETURN(const uint32_t window, m.Uint("attention.sliding_window", 0));
  if (window != 0) {
    return Wrong(m.file(), absl::StrCat(m.Key("attention.sliding_window"), " is ", window,
                                        "; models with sliding-window layers are not supported"));
  }
  return absl::OkStatus();
}

absl::Status ReadExperts(const Metadata& m, ModelConfig* c) {
  HGA_ASSIGN_OR_RETURN(c->experts, m.Uint("expert_count"));
  HGA_ASSIGN_OR_RETURN(c->experts_per_token, m.Uint("expert_used_count"));
  HGA_ASSIGN_OR_RETURN(c->expert_ffn, m.Uint("expert_feed_forward_length"));
  HGA_ASSIGN_OR_RETURN(const uint32_t shared, m.Uint("expert_shared_count", 0));
  c->normalize_expert_weights = true;  // as llama.cpp computes this architecture
  if (shared != 0) return Wrong(m.file(), absl::StrCat(m.Key("expert_shared_count"), " is ", shared, ", expected 0"));
  if (c->experts == 0 || c->experts > 1024 || c->experts_per_token == 0 || c->experts_per_token > c->experts) {
    return Wrong(m.file(), absl::StrCat(c->experts_per_token, " of ", c->experts, " experts for each token"));
  }
  if (c->expert_ffn == 0 || c->expert_ffn > 1 << 20) {
    return Wrong(m.file(), absl::StrCat(m.Key("expert_feed_forward_length"), " is ", c->expert_ffn));
  }
  return absl::OkStatus();
}

absl::Status ReadDivisors(const GgufFile& file, ModelConfig* c) {
  constexpr char kName[] = "rope_freqs.weight";
  if (!file.HasTensor(kName)) return absl::OkStatus();
  HGA_ASSIGN_OR_RETURN(const TensorView tensor, file.Tensor(kName));
  if (tensor.type != TensorType::kF32 || tensor.rows != 1 || tensor.cols != c->rope_dims / 2) {
    return Wrong(file, absl::StrCat("tensor '", kName, "' is ", TensorTypeName(tensor.type), " ", tensor.rows, " x ",
                                    tensor.cols, ", expected F32 1 x ", c->rope_dims / 2));
  }
  c->rope_scaling.divisors.resize(tensor.cols);
  DequantizeRow(tensor.type, tensor.data, tensor.cols, c->rope_scaling.divisors.data());
  for (float divisor : c->rope_scaling.divisors) {
    if (!(divisor > 0 && divisor < 1e6f)) return Wrong(file, absl::StrCat("tensor '", kName, "' holds ", divisor));
  }
  return absl::OkStatus();
}

absl::Status ReadScaling(const Metadata& m, ModelConfig* c) {
  RopeScaling& s = c->rope_scaling;
  HGA_ASSIGN_OR_RETURN(const float old_factor, m.Float("rope.scale_linear", 1));
  HGA_ASSIGN_OR_RETURN(std::string type, m.String("rope.scaling.type", old_factor == 1 ? "none" : "linear"));
  HGA_ASSIGN_OR_RETURN(s.factor, m.Float("rope.scaling.factor", old_factor));
  HGA_ASSIGN_OR_RETURN(s.original_context, m.Uint("rope.scaling.original_context_length", c->context_tokens));
  if (type == "linear") {
    s.kind = RopeScaling::Kind::kLinear;
  } else if (type == "yarn") {
    s.kind = RopeScaling::Kind::kYarn;
    HGA_ASSIGN_OR_RETURN(s.beta_fast, m.Float("rope.scaling.yarn_beta_fast", 32));
    HGA_ASSIGN_OR_RETURN(s.beta_slow, m.Float("rope.scaling.yarn_beta_slow", 1));
    HGA_ASSIGN_OR_RETURN(const float attention, m.Float("rope.scaling.attn_factor", 1));
    // llama.cpp multiplies YaRN's own magnitude with it.
    if (attention != 1) s.attention_factor = attention * static_cast<float>(0.1 * std::log(s.factor) + 1);
    if (!(s.beta_fast > s.beta_slow && s.beta_slow > 0) || !(s.attention_factor >= 0)) {
      return Wrong(m.file(), "YaRN's beta_fast must be more than beta_slow, and both positive");
    }
  } else if (type != "none") {
    return Wrong(m.file(), absl::StrCat("RoPE scaling '", type, "' is not supported; linear and yarn are"));
  }
  if (s.kind == RopeScaling::Kind::kNone) {
    s = RopeScaling();
    return ReadDivisors(m.file(), c);
  }
  if (!(s.factor >= 1 && s.factor <= 1024)) {
    return Wrong(m.file(), absl::StrCat(m.Key("rope.scaling.factor"), " is ", s.factor, ", must be 1 to 1024"));
  }
  if (s.original_context == 0 || s.original_context > 1 << 24) {
    return Wrong(m.file(), absl::StrCat(m.Key("rope.scaling.original_context_length"), " is ", s.original_context));
  }
  return ReadDivisors(m.file(), c);
}

absl::StatusOr<ModelConfig> ReadConfig(const GgufFile& file) {
  HGA_ASSIGN_OR_RETURN(const Family* family, FindFamily(file));
  const Metadata metadata(file, family->architecture);
  ModelConfig config;
  config.architecture = family->architecture;
  config.name = file.GetString("general.name").value_or("unnamed");
  config.qkv_bias = family->qkv_bias;
  config.qk_norm = family->qk_norm;
  config.rope_style = family->rope_style;
  HGA_RETURN_IF_ERROR(ReadShape(metadata, &config));
  if (family->experts) HGA_RETURN_IF_ERROR(ReadExperts(metadata, &config));
  HGA_ASSIGN_OR_RETURN(const TensorView embedding, file.Tensor("token_embd.weight"));
  config.vocab_size = embedding.rows;
  if (absl::Status status = config.Validate(); !status.ok()) return Wrong(file, std::string(status.message()));
  HGA_RETURN_IF_ERROR(ReadScaling(metadata, &config));
  return config;
}

// Reads tensors and holds them against the shapes that the configuration asks for. Remembers the first error.
class TensorReader {
 public:
  explicit TensorReader(const GgufFile& file) : file_(file) {}

  TensorView Matrix(const std::string& name, uint32_t rows, uint32_t cols) {
    const auto tensor = file_.Tensor(name);
    read_.insert(name);
    if (!tensor.ok()) return Fail(tensor.status());
    if (tensor->rows != rows || tensor->cols != cols) {
      return Fail(Wrong(file_, absl::StrCat("tensor '", name, "' is ", tensor->rows, " x ", tensor->cols,
                                            ", expected ", rows, " x ", cols)));
    }
    return *tensor;
  }
  // Norms and biases.
  TensorView Norm(const std::string& name, uint32_t cols) {
    const TensorView view = Matrix(name, 1, cols);
    if (view.data != nullptr && view.type != TensorType::kF32) {
      return Fail(Wrong(file_, absl::StrCat("tensor '", name, "' is ", TensorTypeName(view.type), ", expected F32")));
    }
    return view;
  }
  std::vector<TensorView> Experts(const std::string& name, uint32_t experts, uint32_t rows, uint32_t cols) {
    read_.insert(name);
    auto matrices = file_.Matrices(name);
    if (!matrices.ok()) return Fail(matrices.status()), std::vector<TensorView>();
    const bool fits = matrices->size() == experts && matrices->front().rows == rows && matrices->front().cols == cols;
    if (fits) return *std::move(matrices);
    Fail(Wrong(file_, absl::StrCat("tensor '", name, "' is ", matrices->size(), " x ",
                                   matrices->empty() ? 0 : matrices->front().rows, " x ",
                                   matrices->empty() ? 0 : matrices->front().cols, ", expected ", experts, " x ", rows,
                                   " x ", cols)));
    return {};
  }
  void Skip(const std::string& name) { read_.insert(name); }
  // A tensor that nothing read (a bias, say) would change the result: better no answer than a wrong one.
  void RefuseUnread(const std::string& architecture) {
    for (const std::string& name : file_.tensor_names()) {
      if (!read_.contains(name)) {
        Fail(Wrong(file_, absl::StrCat("tensor '", name, "' has no place in a ", architecture, " model")));
      }
    }
  }
  const absl::Status& status() const { return status_; }

 private:
  TensorView Fail(const absl::Status& status) {
    status_.Update(status);
    return TensorView();
  }

  const GgufFile& file_;
  absl::flat_hash_set<std::string> read_;
  absl::Status status_;
};

void ReadAttention(const std::string& prefix, const ModelConfig& c, TensorReader* reader, LayerWeights* layer) {
  const uint32_t q = c.query_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  layer->attn_norm = reader->Norm(prefix + "attn_norm.weight", c.hidden);
  layer->q = reader->Matrix(prefix + "attn_q.weight", q, c.hidden);
  layer->k = reader->Matrix(prefix + "attn_k.weight", kv, c.hidden);
  layer->v = reader->Matrix(prefix + "attn_v.weight", kv, c.hidden);
  if (c.qkv_bias) {
    layer->q_bias = reader->Norm(prefix + "attn_q.bias", q);
    layer->k_bias = reader->Norm(prefix + "attn_k.bias", kv);
    layer->v_bias = reader->Norm(prefix + "attn_v.bias", kv);
  }
  if (c.qk_norm) {
    layer->q_norm = reader->Norm(prefix + "attn_q_norm.weight", c.head_dim);
    layer->k_norm = reader->Norm(prefix + "attn_k_norm.weight", c.head_dim);
  }
  layer->attn_output = reader->Matrix(prefix + "attn_output.weight", c.hidden, q);
}

void ReadMlp(const std::string& prefix, const ModelConfig& c, TensorReader* reader, LayerWeights* layer) {
  layer->ffn_norm = reader->Norm(prefix + "ffn_norm.weight", c.hidden);
  if (c.experts > 0) {
    layer->expert_router = reader->Matrix(prefix + "ffn_gate_inp.weight", c.experts, c.hidden);
    layer->expert_gate = reader->Experts(prefix + "ffn_gate_exps.weight", c.experts, c.expert_ffn, c.hidden);
    layer->expert_up = reader->Experts(prefix + "ffn_up_exps.weight", c.experts, c.expert_ffn, c.hidden);
    layer->expert_down = reader->Experts(prefix + "ffn_down_exps.weight", c.experts, c.hidden, c.expert_ffn);
    return;
  }
  layer->ffn_gate = reader->Matrix(prefix + "ffn_gate.weight", c.ffn, c.hidden);
  layer->ffn_up = reader->Matrix(prefix + "ffn_up.weight", c.ffn, c.hidden);
  layer->ffn_down = reader->Matrix(prefix + "ffn_down.weight", c.hidden, c.ffn);
}

absl::StatusOr<ModelWeights> ReadWeights(const GgufFile& file, const ModelConfig& config) {
  ModelWeights weights;
  weights.config = config;
  TensorReader reader(file);
  reader.Skip("rope_freqs.weight");
  weights.embedding = reader.Matrix("token_embd.weight", config.vocab_size, config.hidden);
  weights.output_norm = reader.Norm("output_norm.weight", config.hidden);
  weights.output = file.HasTensor("output.weight") ? reader.Matrix("output.weight", config.vocab_size, config.hidden)
                                                   : weights.embedding;
  for (uint32_t i = 0; i < config.layers && reader.status().ok(); ++i) {
    const std::string prefix = absl::StrCat("blk.", i, ".");
    LayerWeights layer;
    ReadAttention(prefix, config, &reader, &layer);
    ReadMlp(prefix, config, &reader, &layer);
    weights.layers.push_back(std::move(layer));
  }
  reader.RefuseUnread(config.architecture);
  if (!reader.status().ok()) return reader.status();
  return weights;
}

}  // namespace

absl::StatusOr<ModelWeights> ReadGgufModel(const GgufFile& file) {
  HGA_ASSIGN_OR_RETURN(const ModelConfig config, ReadConfig(file));
  return ReadWeights(file, config);
}

}  // namespace hga
