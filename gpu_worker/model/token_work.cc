#include "gpu_worker/model/token_work.h"

#include "gpu_worker/model/tensor_list.h"

namespace hga {
namespace {

uint64_t Elements(const TensorView& view) { return view.present() ? uint64_t{view.rows} * view.cols : 0; }
uint64_t Bytes(const TensorView& view) { return view.present() ? TensorBytes(view) : 0; }

void AddMatrix(const TensorView& view, TokenWork* work) {
  work->layer_parameters += Elements(view);
  work->decode_bytes += Bytes(view);
}

// The experts of a layer are all of one shape and type.
void AddExperts(const std::vector<TensorView>& experts, uint32_t chosen, TokenWork* work) {
  if (experts.empty()) return;
  work->layer_parameters += chosen * Elements(experts[0]);
  work->decode_bytes += chosen * Bytes(experts[0]);
}

}  // namespace

TokenWork CountTokenWork(const ModelWeights& weights) {
  TokenWork work;
  for (const LayerWeights& layer : weights.layers) {
    for (const TensorView* matrix : {&layer.q, &layer.k, &layer.v, &layer.attn_output, &layer.ffn_gate, &layer.ffn_up,
                                     &layer.ffn_down, &layer.expert_router}) {
      AddMatrix(*matrix, &work);
    }
    for (const auto* experts : {&layer.expert_gate, &layer.expert_up, &layer.expert_down}) {
      AddExperts(*experts, weights.config.experts_per_token, &work);
    }
    for (const TensorView* vector : {&layer.attn_norm, &layer.ffn_norm, &layer.q_norm, &layer.k_norm, &layer.q_bias,
                                     &layer.k_bias, &layer.v_bias}) {
      work.decode_bytes += Bytes(*vector);
    }
  }
  work.output_parameters = Elements(weights.output);
  work.decode_bytes += Bytes(weights.output) + Bytes(weights.output_norm);
  if (weights.embedding.present()) work.decode_bytes += weights.embedding.row_bytes();
  return work;
}

}  // namespace hga
