#include "gpu_worker/backend/cpu/cpu_backend.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "gpu_worker/backend/check_rows.h"
#include "gpu_worker/backend/cpu/kernels.h"

namespace hga {
namespace {

std::vector<float> Dequantized(const TensorView& vector) {
  std::vector<float> out(vector.cols);
  DequantizeRow(vector.type, vector.data, vector.cols, out.data());
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CpuBackend::Create(const ModelWeights& weights, const KvGeometry& geometry,
                                                            const BackendOptions& options) {
  if (options.threads < 0 || options.threads > 1024) return absl::InvalidArgumentError("threads must be 0 to 1024");
  if (geometry.group_tokens > kTileKeys) {
    return absl::InvalidArgumentError(
        absl::StrCat("cpu backend: groups of ", geometry.group_tokens, " tokens, at most ", kTileKeys, " work"));
  }
  omp_set_dynamic(0);
  omp_set_num_threads(options.threads > 0 ? options.threads : omp_get_num_procs());
  std::unique_ptr<CpuBackend> backend(new CpuBackend(weights, geometry, options));
  HGA_RETURN_IF_ERROR(backend->LoadLayers(weights));
  return std::unique_ptr<Backend>(std::move(backend));
}

CpuBackend::CpuBackend(const ModelWeights& weights, const KvGeometry& geometry, const BackendOptions& options)
    : config_(weights.config),
      geometry_(geometry),
      max_rows_(options.max_rows),
      threads_(omp_get_max_threads()),
      decode_threads_(options.threads > 0 ? threads_ : std::max(1, threads_ - 1)),
      embedding_(weights.embedding),
      output_norm_(Dequantized(weights.output_norm)),
      rope_(config_),
      attention_(geometry, options.max_rows) {
  const size_t q = size_t{config_.query_heads} * config_.head_dim, kv = size_t{config_.kv_heads} * config_.head_dim;
  x_.resize(max_rows_ * size_t{config_.hidden});
  normed_.resize(x_.size());
  projected_.resize(x_.size());
  qkv_.resize(max_rows_ * (q + 2 * kv));
  q_.resize(max_rows_ * q);
  attended_.resize(max_rows_ * q);
  rounded_queries_.resize(max_rows_ * q);
  gate_up_.resize(max_rows_ * size_t{config_.ffn} * 2);
  activated_.resize(max_rows_ * size_t{config_.ffn});
}

absl::Status CpuBackend::LoadLayers(const ModelWeights& weights) {
  const auto context = NewGemmContext();
  size_t packed = 0;
  for (const LayerWeights& w : weights.layers) {
    Layer layer;
    layer.attn_norm = Dequantized(w.attn_norm);
    layer.ffn_norm = Dequantized(w.ffn_norm);
    HGA_ASSIGN_OR_RETURN(layer.qkv, Linear::Create(context, {w.q, w.k, w.v}, true));
    HGA_ASSIGN_OR_RETURN(layer.attn_output, Linear::Create(context, {w.attn_output}, true));
    HGA_ASSIGN_OR_RETURN(layer.gate_up, Linear::Create(context, {w.ffn_gate, w.ffn_up}, true));
    HGA_ASSIGN_OR_RETURN(layer.down, Linear::Create(context, {w.ffn_down}, true));
    for (const Linear* l : {&layer.qkv, &layer.attn_output, &layer.gate_up, &layer.down}) packed += l->packed_bytes();
    layers_.push_back(std::move(layer));
  }
  // Only rows that want logits get there: never enough of them for GEMM to pay.
  HGA_ASSIGN_OR_RETURN(output_, Linear::Create(context, {weights.output}, false));
  LogInfo("cpu backend: ", threads_, " threads for prefill, ", decode_threads_, " for decode, ", packed >> 20, " MiB of packed weights for prefill");
  return absl::OkStatus();
}

void CpuBackend::Norm(const float* x, const std::vector<float>& scale, float* out) const {
  double squares = 0;
  for (uint32_t i = 0; i < config_.hidden; ++i) squares += double{x[i]} * x[i];
  const float factor = static_cast<float>(1 / std::sqrt(squares / config_.hidden + config_.rms_epsilon));
  for (uint32_t i = 0; i < config_.hidden; ++i) out[i] = x[i] * factor * scale[i];
}

absl::Status CpuBackend::Begin(absl::Span<const BatchRow> rows) {
  HGA_RETURN_IF_ERROR(CheckRows(rows, max_rows_, config_));
  // OpenMP keeps the number for each calling thread: the step's need not be the one that created the backend.
  omp_set_num_threads(rows.size() > kGemvRowsMax ? threads_ : decode_threads_);
  rows_.assign(rows.begin(), rows.end());
  positions_.clear();
  for (size_t r = 0; r < rows_.size(); ++r) {
    positions_.push_back(rows_[r].position);
    FastDequantizeRow(embedding_.type, embedding_.row(rows_[r].token_id), config_.hidden, &x_[r * config_.hidden]);
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) {
  Layer& w = layers_[layer];
  const int rows = static_cast<int>(rows_.size());
  const size_t hidden = config_.hidden, d = config_.head_dim;
  const size_t q_width = config_.query_heads * d, kv_width = config_.kv_heads * d, width = q_width + 2 * kv_width;
  for (int r = 0; r < rows; ++r) Norm(&x_[r * hidden], w.attn_norm, &normed_[r * hidden]);
  HGA_RETURN_IF_ERROR(w.qkv.Apply(normed_.data(), rows, qkv_.data()));
  for (int r = 0; r < rows; ++r) {
    float* row = &qkv_[r * width];
    rope_.SetPosition(rows_[r].position);
    for (uint32_t h = 0; h < config_.query_heads + config_.kv_heads; ++h) rope_.Apply(row + h * d);
    std::memcpy(&q_[r * q_width], row, q_width * sizeof(float));
    FloatsToBf16(row, q_width, &rounded_queries_[r * q_width]);
    StoreKv(r, row + q_width, row + q_width + kv_width, kv_rows[r]);
  }
  attention_.Begin(q_.data(), positions_.data(), rows);
  return absl::OkStatus();
}

void CpuBackend::StoreKv(uint32_t row, const float* k, const float* v, const KvRow& to) {
  const uint32_t d = config_.head_dim;
  for (uint32_t h = 0; h < config_.kv_heads; ++h) {
    FloatsToBf16(k + size_t{h} * d, d, to.block + geometry_.k_row(h, to.token_in_chunk));
    FloatsToBf16(v + size_t{h} * d, d, to.block + geometry_.v_row(h, to.token_in_chunk));
  }
}

absl::Status CpuBackend::Attend(const AttendPlan& plan) {
  attention_.Attend(plan);
  return absl::OkStatus();
}

absl::Status CpuBackend::PostAttention(uint32_t layer) {
  Layer& w = layers_[layer];
  const int rows = static_cast<int>(rows_.size());
  const size_t hidden = config_.hidden, ffn = config_.ffn;
  attention_.Finish(attended_.data());
  HGA_RETURN_IF_ERROR(w.attn_output.Apply(attended_.data(), rows, projected_.data()));
  for (size_t i = 0; i < rows * hidden; ++i) x_[i] += projected_[i];
  for (int r = 0; r < rows; ++r) Norm(&x_[r * hidden], w.ffn_norm, &normed_[r * hidden]);
  HGA_RETURN_IF_ERROR(w.gate_up.Apply(normed_.data(), rows, gate_up_.data()));
#pragma omp parallel for if (rows > 8)
  for (int r = 0; r < rows; ++r) {
    const float* gate = &gate_up_[r * 2 * ffn];
    SiluMultiply(gate, gate + ffn, ffn, &activated_[r * ffn]);
  }
  HGA_RETURN_IF_ERROR(w.down.Apply(activated_.data(), rows, projected_.data()));
  for (size_t i = 0; i < rows * hidden; ++i) x_[i] += projected_[i];
  return absl::OkStatus();
}

absl::Status CpuBackend::Logits(std::vector<float>* logits) {
  uint32_t wanted = 0;
  for (size_t r = 0; r < rows_.size(); ++r) {
    if (rows_[r].want_logits) Norm(&x_[r * config_.hidden], output_norm_, &normed_[size_t{wanted++} * config_.hidden]);
  }
  logits->resize(size_t{wanted} * config_.vocab_size);
  return wanted == 0 ? absl::OkStatus() : output_.Apply(normed_.data(), wanted, logits->data());
}

}  // namespace hga
