#include "gpu_worker/model/hf_model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "gpu_worker/model/hf_config.h"
#include "gpu_worker/model/tensor_row.h"

namespace hga {
namespace {

using Tensor = SafetensorsCheckpoint::Tensor;

// The types that weights may have.
absl::StatusOr<TensorType> TypeOf(const std::string& dtype) {
  if (dtype == "F32") return TensorType::kF32;
  if (dtype == "F16") return TensorType::kF16;
  if (dtype == "BF16") return TensorType::kBF16;
  if (dtype == "F8_E4M3") return TensorType::kF8E4M3;
  return absl::InvalidArgumentError("");
}

// Finds tensors by name and holds them against the shape and type that the configuration asks for. Remembers the first
// error. What must be converted is noted, so that its pages can be asked for all at once.
class WeightReader {
 public:
  WeightReader(const SafetensorsCheckpoint& checkpoint, const HfConfig& config)
      : checkpoint_(checkpoint), config_(config) {}

  void Matrix(const std::string& name, uint32_t rows, uint32_t cols, TensorView* out) {
    const Tensor* tensor = Find(name, {rows, cols}, out);
    if (tensor != nullptr && out->type == TensorType::kF8E4M3) TileScales(name, out);
  }
  // Norms and biases: becomes F32.
  void Vector(const std::string& name, uint32_t size, TensorView* out) {
    const Tensor* tensor = Find(name, {size}, out);
    if (tensor == nullptr) return;
    if (out->type == TensorType::kF8E4M3) return Fail(name, *tensor, "is F8_E4M3, expected F32, F16 or BF16");
    vectors_.push_back({name, tensor, out});
  }
  // A tensor that is known and not needed.
  void Skip(const std::string& name) { read_.insert(name); }
  bool Has(const std::string& name) const { return checkpoint_.Find(name) != nullptr; }

  // One that nothing read (a bias, say) would change the result: better no answer than a wrong one.
  void RefuseUnread() {
    const std::pair<const std::string, Tensor>* unread = nullptr;
    for (const auto& entry : checkpoint_.tensors()) {
      // Old exports keep a buffer that follows from the configuration.
      if (read_.contains(entry.first) || absl::EndsWith(entry.first, ".rotary_emb.inv_freq")) continue;
      if (unread == nullptr || entry.first < unread->first) unread = &entry;
    }
    if (unread != nullptr) {
      Fail(unread->first, unread->second, absl::StrCat("has no place in a ", config_.model.architecture, " model"));
    }
  }

  // Reads what is small. Views get their final data.
  void Convert(std::deque<std::vector<float>>* converted) {
    for (const auto* list : {&vectors_, &scales_}) {
      for (const Noted& noted : *list) Prefetch(noted.tensor->data, noted.tensor->bytes);
    }
    for (const Noted& noted : vectors_) {
      const float* data = ToFloats(noted, converted);
      if (!AllOf(data, noted.out->cols, [](float x) { return std::isfinite(x); })) {
        Fail(noted.name, *noted.tensor, "holds a value that is infinite or not a number");
      }
      noted.out->data = reinterpret_cast<const uint8_t*>(data);
      noted.out->type = TensorType::kF32;
    }
    for (const Noted& noted : scales_) {
      const float* data = ToFloats(noted, converted);
      const size_t count = size_t{TilesAlong(noted.out->rows)} * TilesAlong(noted.out->cols);
      if (!AllOf(data, count, [](float x) { return x >= 0 && std::isfinite(x); })) {
        Fail(noted.name, *noted.tensor, "holds a scale that is negative, infinite or not a number");
      }
      noted.out->tile_scales = data;
    }
  }

  void Fail(const std::string& name, const Tensor& tensor, const std::string& what) {
    status_.Update(absl::InvalidArgumentError(absl::StrCat(*tensor.file, ": tensor '", name, "' ", what)));
  }
  void Missing(const std::string& name, const std::string& why = "") {
    status_.Update(
        absl::NotFoundError(absl::StrCat("checkpoint ", checkpoint_.folder(), ": no tensor '", name, "'", why)));
  }
  const absl::Status& status() const { return status_; }

 private:
  struct Noted {
    std::string name;
    const Tensor* tensor;
    TensorView* out;
  };

  const Tensor* Find(const std::string& name, const std::vector<uint64_t>& shape, TensorView* out) {
    const Tensor* tensor = checkpoint_.Find(name);
    read_.insert(name);
    if (tensor == nullptr) return Missing(name), nullptr;
    const auto type = TypeOf(tensor->dtype);
    if (!type.ok()) {
      Fail(name, *tensor, absl::StrCat("is ", tensor->dtype, ", expected F32, F16, BF16 or F8_E4M3"));
      return nullptr;
    }
    if (tensor->shape != shape) {
      Fail(name, *tensor, absl::StrCat("is [", absl::StrJoin(tensor->shape, ", "), "], expected [",
                                       absl::StrJoin(shape, ", "), "] by config.json"));
      return nullptr;
    }
    out->type = *type;
    out->rows = static_cast<uint32_t>(shape.size() == 1 ? 1 : shape[0]);
    out->cols = static_cast<uint32_t>(shape.back());
    out->data = tensor->data;
    return tensor;
  }

  void TileScales(const std::string& weight, TensorView* out) {
    const std::string name = weight + "_scale_inv";
    const Tensor* tensor = checkpoint_.Find(name);
    read_.insert(name);
    if (!config_.fp8_tiles) {
      return Fail(weight, *checkpoint_.Find(weight), "is F8_E4M3, but config.json has no quantization_config");
    }
    if (tensor == nullptr) return Missing(name, absl::StrCat(", the scales of ", weight));
    if (tensor->dtype != "F32" && tensor->dtype != "BF16") {
      return Fail(name, *tensor, absl::StrCat("is ", tensor->dtype, ", expected F32 or BF16"));
    }
    const std::vector<uint64_t> shape = {TilesAlong(out->rows), TilesAlong(out->cols)};
    if (tensor->shape != shape) {
      return Fail(name, *tensor, absl::StrCat("is [", absl::StrJoin(tensor->shape, ", "), "], expected [",
                                              absl::StrJoin(shape, ", "), "]: one scale for each 128 x 128 tile"));
    }
    scales_.push_back({name, tensor, out});
  }

  // In place where the file has floats.
  static const float* ToFloats(const Noted& noted, std::deque<std::vector<float>>* converted) {
    const TensorType type = *TypeOf(noted.tensor->dtype);
    if (type == TensorType::kF32) return reinterpret_cast<const float*>(noted.tensor->data);
    const size_t count = noted.tensor->bytes / TensorBlockBytes(type);
    converted->emplace_back(count);
    DequantizeRow(type, noted.tensor->data, static_cast<uint32_t>(count), converted->back().data());
    return converted->back().data();
  }
  template <typename Predicate>
  static bool AllOf(const float* data, size_t count, Predicate predicate) {
    return std::all_of(data, data + count, predicate);
  }

  const SafetensorsCheckpoint& checkpoint_;
  const HfConfig& config_;
  absl::flat_hash_set<std::string> read_;
  std::vector<Noted> vectors_, scales_;
  absl::Status status_;
};

void ReadAttention(const std::string& prefix, const ModelConfig& c, WeightReader* reader, LayerWeights* layer) {
  const uint32_t q = c.query_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const struct {
    const char* name;
    uint32_t rows;
    TensorView *matrix, *bias;
  } projections[] = {
      {"q_proj", q, &layer->q, &layer->q_bias}, {"k_proj", kv, &layer->k, &layer->k_bias},
      {"v_proj", kv, &layer->v, &layer->v_bias}};
  for (const auto& p : projections) {
    reader->Matrix(absl::StrCat(prefix, p.name, ".weight"), p.rows, c.hidden, p.matrix);
    if (c.qkv_bias) reader->Vector(absl::StrCat(prefix, p.name, ".bias"), p.rows, p.bias);
  }
  if (c.qk_norm) {
    reader->Vector(prefix + "q_norm.weight", c.head_dim, &layer->q_norm);
    reader->Vector(prefix + "k_norm.weight", c.head_dim, &layer->k_norm);
  }
  reader->Matrix(prefix + "o_proj.weight", c.hidden, q, &layer->attn_output);
}

void ReadMlp(const std::string& prefix, uint32_t hidden, uint32_t ffn, WeightReader* reader, TensorView* gate,
             TensorView* up, TensorView* down) {
  reader->Matrix(prefix + "gate_proj.weight", ffn, hidden, gate);
  reader->Matrix(prefix + "up_proj.weight", ffn, hidden, up);
  reader->Matrix(prefix + "down_proj.weight", hidden, ffn, down);
}

void ReadExperts(const std::string& prefix, const ModelConfig& c, WeightReader* reader, LayerWeights* layer) {
  reader->Matrix(prefix + "gate.weight", c.experts, c.hidden, &layer->expert_router);
  for (auto* experts : {&layer->expert_gate, &layer->expert_up, &layer->expert_down}) experts->resize(c.experts);
  for (uint32_t e = 0; e < c.experts && reader->status().ok(); ++e) {
    ReadMlp(absl::StrCat(prefix, "experts.", e, "."), c.hidden, c.expert_ffn, reader, &layer->expert_gate[e],
            &layer->expert_up[e], &layer->expert_down[e]);
  }
}

void ReadLayer(const std::string& prefix, const ModelConfig& c, WeightReader* reader, LayerWeights* layer) {
  reader->Vector(prefix + "input_layernorm.weight", c.hidden, &layer->attn_norm);
  ReadAttention(prefix + "self_attn.", c, reader, layer);
  reader->Vector(prefix + "post_attention_layernorm.weight", c.hidden, &layer->ffn_norm);
  if (c.experts > 0) return ReadExperts(prefix + "mlp.", c, reader, layer);
  ReadMlp(prefix + "mlp.", c.hidden, c.ffn, reader, &layer->ffn_gate, &layer->ffn_up, &layer->ffn_down);
}

void ReadWeights(const HfConfig& config, WeightReader* reader, ModelWeights* weights) {
  const ModelConfig& c = config.model;
  constexpr char kOutput[] = "lm_head.weight";
  weights->config = c;
  reader->Matrix("model.embed_tokens.weight", c.vocab_size, c.hidden, &weights->embedding);
  reader->Vector("model.norm.weight", c.hidden, &weights->output_norm);
  if (config.tied) {
    reader->Skip(kOutput);
  } else if (!reader->Has(kOutput)) {
    reader->Missing(kOutput, ", and config.json does not say tie_word_embeddings");
  } else {
    reader->Matrix(kOutput, c.vocab_size, c.hidden, &weights->output);
  }
  weights->layers.resize(c.layers);
  for (uint32_t i = 0; i < c.layers && reader->status().ok(); ++i) {
    ReadLayer(absl::StrCat("model.layers.", i, "."), c, reader, &weights->layers[i]);
  }
  reader->RefuseUnread();
}

}  // namespace

absl::StatusOr<std::unique_ptr<HfModel>> ReadHfModel(const std::string& folder, HfRead read) {
  auto read_config = ReadHfConfig(folder + "/config.json");
  if (absl::IsNotFound(read_config.status())) {
    return absl::NotFoundError(absl::StrCat("folder ", folder,
                                            " has no config.json; expected config.json, tokenizer.json ",
                                            "and safetensors files, or the path of a GGUF file"));
  }
  HGA_ASSIGN_OR_RETURN(HfConfig config, std::move(read_config));
  std::filesystem::path path(folder);
  config.model.name = (path.has_filename() ? path : path.parent_path()).filename().string();
  auto model = std::make_unique<HfModel>();
  HGA_ASSIGN_OR_RETURN(model->checkpoint, SafetensorsCheckpoint::Open(folder));
  WeightReader reader(*model->checkpoint, config);
  ReadWeights(config, &reader, &model->weights);
  if (reader.status().ok() && read == HfRead::kRunnable) reader.Convert(&model->converted);
  if (!reader.status().ok()) return reader.status();
  if (config.tied) model->weights.output = model->weights.embedding;
  return model;
}

}  // namespace hga
