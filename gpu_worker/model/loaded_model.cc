#include "gpu_worker/model/loaded_model.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr char kChatMl[] = "<|im_start|>{{ role }}\n{{ content }}<|im_end|>\n";

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
  HGA_RETURN_IF_ERROR(RefuseRopeScaling(file));
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

absl::StatusOr<std::unique_ptr<Tokenizer>> ReadTokenizer(const GgufFile& file) {
  HGA_ASSIGN_OR_RETURN(const std::string kind, file.GetString("tokenizer.ggml.model"));
  if (kind != "gpt2") {
    return Wrong(file, absl::StrCat("tokenizer '", kind, "' is not supported yet; gpt2 (byte-level BPE) is"));
  }
  TokenizerData data;
  data.pre = file.GetString("tokenizer.ggml.pre").value_or("default");
  HGA_ASSIGN_OR_RETURN(data.tokens, file.GetStrings("tokenizer.ggml.tokens"));
  HGA_ASSIGN_OR_RETURN(data.merges, file.GetStrings("tokenizer.ggml.merges"));
  if (file.Has("tokenizer.ggml.token_type")) {
    HGA_ASSIGN_OR_RETURN(data.types, file.GetInts("tokenizer.ggml.token_type"));
  }
  HGA_ASSIGN_OR_RETURN(data.eos, Get32(file, "tokenizer.ggml.eos_token_id"));
  auto tokenizer = Tokenizer::Create(std::move(data));
  if (!tokenizer.ok()) return Wrong(file, std::string(tokenizer.status().message()));
  return tokenizer;
}

// The whole of a large checkpoint would take minutes to hash; slices spread over each tensor tell models apart.
ModelFingerprint Fingerprint(const GgufFile& file, const ModelConfig& c) {
  constexpr size_t kSlices = 16, kSliceBytes = 4096;
  std::string identity = absl::StrCat(c.architecture, ":", c.layers, ":", c.hidden, ":", c.ffn, ":", c.query_heads, ":",
                                      c.kv_heads, ":", c.head_dim, ":", c.vocab_size, ":", c.rms_epsilon, ":",
                                      c.rope_base, ":", c.rope_dims, ":", static_cast<int>(c.rope_style));
  for (const std::string& name : file.tensor_names()) {
    const TensorView view = *file.Tensor(name);
    const size_t bytes = view.rows * view.row_bytes();
    absl::StrAppend(&identity, ";", name, ":", static_cast<int>(view.type), ":", view.rows, ":", view.cols, ":");
    for (size_t s = 0; s < kSlices; ++s) {
      const size_t length = std::min(kSliceBytes, bytes);
      const size_t begin = (bytes - length) * s / (kSlices - 1);  // the last slice ends with the tensor
      identity += HashBytes(absl::string_view(reinterpret_cast<const char*>(view.data + begin), length)).ToBytes();
      if (bytes <= kSliceBytes) break;
    }
  }
  return HashBytes(identity);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& path, const std::string& chat_template) {
  if (!chat_template.empty() && chat_template != "chatml") {
    return absl::InvalidArgumentError(absl::StrCat("chat template '", chat_template, "' is not known; chatml is"));
  }
  auto model = std::make_unique<LoadedModel>();
  HGA_ASSIGN_OR_RETURN(model->file, GgufFile::Open(path));
  const GgufFile& file = *model->file;
  HGA_ASSIGN_OR_RETURN(ModelConfig config, ReadConfig(file));
  HGA_ASSIGN_OR_RETURN(model->tokenizer, ReadTokenizer(file));
  config.vocab_size = model->tokenizer->vocab_size();
  if (absl::Status status = config.Validate(); !status.ok()) return Wrong(file, std::string(status.message()));
  HGA_ASSIGN_OR_RETURN(model->weights, ReadWeights(file, config));
  const std::string text =
      chat_template == "chatml" ? kChatMl : file.GetString("tokenizer.chat_template").value_or("");
  model->chat_template = ChatTemplate::Create(text, model->tokenizer.get());
  model->fingerprint = Fingerprint(file, config);
  for (const std::string& name : file.tensor_names()) {
    const TensorView view = *file.Tensor(name);
    model->parameters += uint64_t{view.rows} * view.cols;
  }
  return model;
}

}  // namespace hga
