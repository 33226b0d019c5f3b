#include "gpu_worker/model/gguf_model.h"

#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

absl::Status Wrong(const GgufFile& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("model ", file.path(), ": ", what));
}

absl::StatusOr<uint32_t> Get32(const GgufFile& file, const std::string& key) {
  HGA_ASSIGN_OR_RETURN(const uint64_t value, file.GetUint(key));
  if (value > UINT32_MAX) return Wrong(file, absl::StrCat(key, " is ", value));
  return static_cast<uint32_t>(value);
}

absl::Status RefuseRopeScaling(const GgufFile& file) {
  std::string scaling = "none";
  if (file.Has("llama.rope.scaling.type")) {
    HGA_ASSIGN_OR_RETURN(scaling, file.GetString("llama.rope.scaling.type"));
  }
  if (file.Has("llama.rope.scale_linear") && file.GetFloat("llama.rope.scale_linear").value_or(0) != 1) {
    scaling = "linear";
  }
  if (file.HasTensor("rope_freqs.weight")) scaling = "rope_freqs.weight";
  if (scaling == "none") return absl::OkStatus();
  return Wrong(file, absl::StrCat("RoPE scaling (", scaling, ") is not supported; models without it are"));
}

absl::StatusOr<ModelConfig> ReadConfig(const GgufFile& file) {
  ModelConfig config;
  HGA_ASSIGN_OR_RETURN(config.architecture, file.GetString("general.architecture"));
  if (config.architecture != "llama") {
    return Wrong(file, absl::StrCat("architecture '", config.architecture, "' is not supported yet; llama is"));
  }
  config.name = file.GetString("general.name").value_or("unnamed");
  HGA_ASSIGN_OR_RETURN(config.layers, Get32(file, "llama.block_count"));
  HGA_ASSIGN_OR_RETURN(config.hidden, Get32(file, "llama.embedding_length"));
  HGA_ASSIGN_OR_RETURN(config.ffn, Get32(file, "llama.feed_forward_length"));
  HGA_ASSIGN_OR_RETURN(config.query_heads, Get32(file, "llama.attention.head_count"));
  HGA_ASSIGN_OR_RETURN(config.context_tokens, Get32(file, "llama.context_length"));
  HGA_ASSIGN_OR_RETURN(config.rms_epsilon, file.GetFloat("llama.attention.layer_norm_rms_epsilon"));
  config.kv_heads = config.query_heads;
  if (file.Has("llama.attention.head_count_kv")) {
    HGA_ASSIGN_OR_RETURN(config.kv_heads, Get32(file, "llama.attention.head_count_kv"));
  }
  if (config.query_heads == 0 || config.hidden % config.query_heads != 0) {
    return Wrong(file, absl::StrCat("width ", config.hidden, " does not divide into ", config.query_heads, " heads"));
  }
  config.head_dim = config.hidden / config.query_heads;
  if (file.Has("llama.attention.key_length")) {
    HGA_ASSIGN_OR_RETURN(config.head_dim, Get32(file, "llama.attention.key_length"));
  }
  config.rope_dims = config.head_dim;
  if (file.Has("llama.rope.dimension_count")) {
    HGA_ASSIGN_OR_RETURN(config.rope_dims, Get32(file, "llama.rope.dimension_count"));
  }
  if (file.Has("llama.rope.freq_base")) {
    HGA_ASSIGN_OR_RETURN(config.rope_base, file.GetFloat("llama.rope.freq_base"));
  }
  HGA_ASSIGN_OR_RETURN(const TensorView embedding, file.Tensor("token_embd.weight"));
  config.vocab_size = embedding.rows;
  HGA_RETURN_IF_ERROR(RefuseRopeScaling(file));
  if (absl::Status status = config.Validate(); !status.ok()) return Wrong(file, std::string(status.message()));
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
  TensorView Norm(const std::string& name, uint32_t cols) {
    const TensorView view = Matrix(name, 1, cols);
    if (view.data != nullptr && view.type != TensorType::kF32) {
      return Fail(Wrong(file_, absl::StrCat("tensor '", name, "' is ", TensorTypeName(view.type), ", expected F32")));
    }
    return view;
  }
  // A tensor that nothing read (a bias, say) would change the result: better no answer than a wrong one.
  void RefuseUnread() {
    for (const std::string& name : file_.tensor_names()) {
      if (!read_.contains(name)) Fail(Wrong(file_, absl::StrCat("tensor '", name, "' has no place in a llama model")));
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

absl::StatusOr<ModelWeights> ReadWeights(const GgufFile& file, const ModelConfig& config) {
  ModelWeights weights;
  weights.config = config;
  TensorReader reader(file);
  const uint32_t q = config.query_heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  weights.embedding = reader.Matrix("token_embd.weight", config.vocab_size, config.hidden);
  weights.output_norm = reader.Norm("output_norm.weight", config.hidden);
  weights.output = file.HasTensor("output.weight") ? reader.Matrix("output.weight", config.vocab_size, config.hidden)
                                                   : weights.embedding;
  for (uint32_t i = 0; i < config.layers && reader.status().ok(); ++i) {
    const std::string prefix = absl::StrCat("blk.", i, ".");
    LayerWeights layer;
    layer.attn_norm = reader.Norm(prefix + "attn_norm.weight", config.hidden);
    layer.q = reader.Matrix(prefix + "attn_q.weight", q, config.hidden);
    layer.k = reader.Matrix(prefix + "attn_k.weight", kv, config.hidden);
    layer.v = reader.Matrix(prefix + "attn_v.weight", kv, config.hidden);
    layer.attn_output = reader.Matrix(prefix + "attn_output.weight", config.hidden, q);
    layer.ffn_norm = reader.Norm(prefix + "ffn_norm.weight", config.hidden);
    layer.ffn_gate = reader.Matrix(prefix + "ffn_gate.weight", config.ffn, config.hidden);
    layer.ffn_up = reader.Matrix(prefix + "ffn_up.weight", config.ffn, config.hidden);
    layer.ffn_down = reader.Matrix(prefix + "ffn_down.weight", config.hidden, config.ffn);
    weights.layers.push_back(layer);
  }
  reader.RefuseUnread();
  if (!reader.status().ok()) return reader.status();
  return weights;
}

}  // namespace

absl::StatusOr<ModelWeights> ReadGgufModel(const GgufFile& file) {
  HGA_ASSIGN_OR_RETURN(const ModelConfig config, ReadConfig(file));
  return ReadWeights(file, config);
}

}  // namespace hga
