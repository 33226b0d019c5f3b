#include "gpu_worker/model/tensor_list.h"

#include "absl/strings/str_cat.h"
#include "gpu_worker/model/tensor_row.h"

namespace hga {
namespace {

void Add(const std::string& name, const TensorView& view, std::vector<NamedTensor>* out) {
  if (view.present()) out->push_back({name, view});
}

void AddExperts(const std::string& name, const std::vector<TensorView>& experts, std::vector<NamedTensor>* out) {
  for (size_t e = 0; e < experts.size(); ++e) Add(absl::StrCat(name, ".", e), experts[e], out);
}

void AddLayer(const std::string& prefix, const LayerWeights& layer, std::vector<NamedTensor>* out) {
  const struct {
    const char* name;
    const TensorView& view;
  } tensors[] = {
      {"attn_norm", layer.attn_norm}, {"q", layer.q}, {"k", layer.k}, {"v", layer.v},
      {"q_bias", layer.q_bias}, {"k_bias", layer.k_bias}, {"v_bias", layer.v_bias},
      {"q_norm", layer.q_norm}, {"k_norm", layer.k_norm}, {"attn_output", layer.attn_output},
      {"ffn_norm", layer.ffn_norm}, {"ffn_gate", layer.ffn_gate}, {"ffn_up", layer.ffn_up},
      {"ffn_down", layer.ffn_down}, {"expert_router", layer.expert_router},
  };
  for (const auto& tensor : tensors) Add(prefix + tensor.name, tensor.view, out);
  AddExperts(prefix + "expert_gate", layer.expert_gate, out);
  AddExperts(prefix + "expert_up", layer.expert_up, out);
  AddExperts(prefix + "expert_down", layer.expert_down, out);
}

}  // namespace

std::vector<NamedTensor> ListTensors(const ModelWeights& weights) {
  std::vector<NamedTensor> out;
  Add("embedding", weights.embedding, &out);
  Add("output_norm", weights.output_norm, &out);
  if (weights.output.data != weights.embedding.data) Add("output", weights.output, &out);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    AddLayer(absl::StrCat("layers.", i, "."), weights.layers[i], &out);
  }
  return out;
}

uint64_t CountParameters(const ModelWeights& weights) {
  uint64_t count = 0;
  for (const NamedTensor& tensor : ListTensors(weights)) count += uint64_t{tensor.view.rows} * tensor.view.cols;
  return count;
}

uint64_t CountWeightBytes(const ModelWeights& weights) {
  uint64_t bytes = 0;
  for (const auto& [name, view] : ListTensors(weights)) bytes += TensorBytes(view);
  return bytes;
}

uint64_t TensorBytes(const TensorView& view) {
  return view.rows * view.row_bytes() + TileScaleCount(view) * sizeof(float);
}

size_t TileScaleCount(const TensorView& view) {
  if (view.type != TensorType::kF8E4M3) return 0;
  return size_t{TilesAlong(view.rows)} * TilesAlong(view.cols);
}

}  // namespace hga
