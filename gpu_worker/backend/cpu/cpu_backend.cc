#include "gpu_worker/backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/base/cores.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/kv/kv_rows.h"
#include "gpu_worker/backend/check_rows.h"
#include "gpu_worker/backend/cpu/kernels.h"
#include "gpu_worker/model/tensor_row.h"

namespace hga {
namespace {

std::vector<float> Dequantized(const TensorView& vector) {
  std::vector<float> out(vector.present() ? vector.cols : 0);
  if (vector.present()) DequantizeTensorRow(vector, 0, out.data());
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
  std::unique_ptr<CpuBackend> backend(new CpuBackend(weights, geometry, options));
  HGA_RETURN_IF_ERROR(backend->LoadLayers(weights, options.bf16_copy));
  return std::unique_ptr<Backend>(std::move(backend));
}

CpuBackend::CpuBackend(const ModelWeights& weights, const KvGeometry& geometry, const BackendOptions& options)
    : workers_(std::make_unique<Workers>(ThreadsOf(options.threads))),
      config_(weights.config),
      geometry_(geometry),
      max_rows_(options.max_rows),
      embedding_(weights.embedding),
      output_norm_(Dequantized(weights.output_norm)),
      ropes_(max_rows_, Rope(config_)),
      attention_(geometry, options.max_rows, workers_.get()) {
  const size_t q = size_t{config_.query_heads} * config_.head_dim, kv = size_t{config_.kv_heads} * config_.head_dim;
  x_.resize(max_rows_ * size_t{config_.hidden});
  normed_.resize(x_.size());
  projected_.resize(x_.size());
  qkv_.resize(max_rows_ * (q + 2 * kv));
  q_.resize(max_rows_ * q);
  attended_.resize(max_rows_ * q);
  rounded_queries_.resize(max_rows_ * q);
  log_sum_exp_.resize(size_t{max_rows_} * config_.query_heads);
}

absl::Status CpuBackend::LoadLayers(const ModelWeights& weights, bool bf16_copy) {
  const auto context = std::make_shared<LinearContext>(workers_.get(), bf16_copy);
  size_t packed = 0;
  for (const LayerWeights& w : weights.layers) {
    Layer layer;
    layer.attn_norm = Dequantized(w.attn_norm);
    layer.ffn_norm = Dequantized(w.ffn_norm);
    for (const TensorView* bias : {&w.q_bias, &w.k_bias, &w.v_bias}) {
      for (float x : Dequantized(*bias)) layer.qkv_bias.push_back(x);
    }
    layer.q_norm = Dequantized(w.q_norm);
    layer.k_norm = Dequantized(w.k_norm);
    HGA_ASSIGN_OR_RETURN(layer.qkv, Linear::Create(context, {w.q, w.k, w.v}, true));
    HGA_ASSIGN_OR_RETURN(layer.attn_output, Linear::Create(context, {w.attn_output}, true));
    HGA_ASSIGN_OR_RETURN(layer.mlp, CpuMlp::Create(context, config_, w));
    packed += layer.qkv.packed_bytes() + layer.attn_output.packed_bytes() + layer.mlp.packed_bytes();
    layers_.push_back(std::move(layer));
  }
  // Only rows that want logits get there: never enough of them for GEMM to pay.
  HGA_ASSIGN_OR_RETURN(output_, Linear::Create(context, {weights.output}, false));
  onednn_ = packed > 0;
  LogInfo("cpu backend", {{"threads", workers_->threads()}, {"packed_bytes", packed}});
  return absl::OkStatus();
}

void CpuBackend::Norm(const float* x, const std::vector<float>& scale, float* out) const {
  constexpr size_t kSums = 8;  // one would wait for its own additions
  double sums[kSums] = {};
  size_t at = 0;
  for (; at + kSums <= scale.size(); at += kSums) {
    for (size_t i = 0; i < kSums; ++i) sums[i] += double{x[at + i]} * x[at + i];
  }
  for (; at < scale.size(); ++at) sums[0] += double{x[at]} * x[at];
  const double squares = std::accumulate(sums, sums + kSums, 0.0);
  const float factor = static_cast<float>(1 / std::sqrt(squares / scale.size() + config_.rms_epsilon));
  for (size_t i = 0; i < scale.size(); ++i) out[i] = x[i] * factor * scale[i];
}

void CpuBackend::FinishHeads(const Layer& w, const Rope& rope, float* row) const {
  for (size_t i = 0; i < w.qkv_bias.size(); ++i) row[i] += w.qkv_bias[i];
  for (uint32_t h = 0; h < config_.query_heads + config_.kv_heads; ++h, row += config_.head_dim) {
    const std::vector<float>& norm = h < config_.query_heads ? w.q_norm : w.k_norm;
    if (!norm.empty()) Norm(row, norm, row);
    rope.Apply(row);
  }
}

absl::Status CpuBackend::Begin(absl::Span<const BatchRow> rows) {
  HGA_RETURN_IF_ERROR(CheckRows(rows, max_rows_, config_));
  workers_->BeginStep(onednn_ && rows.size() > kGemvRowsMax);
  rows_.assign(rows.begin(), rows.end());
  positions_.clear();
  for (const BatchRow& row : rows) positions_.push_back(row.position);
  workers_->RunRows(static_cast<uint32_t>(rows.size()), [&](uint32_t r, uint32_t) {
    FastDequantizeTensorRow(embedding_, rows_[r].token_id, &x_[size_t{r} * config_.hidden]);
    ropes_[r].SetPosition(rows_[r].position);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::Project(uint32_t layer, absl::FunctionRef<void(uint32_t r, float* row)> use) {
  Layer& w = layers_[layer];
  const auto rows = static_cast<uint32_t>(rows_.size());
  const size_t hidden = config_.hidden, width = w.qkv.outputs();
  workers_->RunRows(rows, [&](uint32_t r, uint32_t) { Norm(&x_[r * hidden], w.attn_norm, &normed_[r * hidden]); });
  HGA_RETURN_IF_ERROR(w.qkv.Apply(normed_.data(), rows, qkv_.data()));
  workers_->RunRows(rows, [&](uint32_t r, uint32_t) {
    FinishHeads(w, ropes_[r], &qkv_[r * width]);
    use(r, &qkv_[r * width]);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) {
  HGA_RETURN_IF_ERROR(CheckKvRows(geometry_, layer, kv_rows, rows_.size()));
  const size_t d = config_.head_dim, q_width = config_.query_heads * d, kv_width = config_.kv_heads * d;
  HGA_RETURN_IF_ERROR(Project(layer, [&](uint32_t r, float* row) {
    std::memcpy(&q_[r * q_width], row, q_width * sizeof(float));
    FloatsToBf16(row, q_width, &rounded_queries_[r * q_width]);
    StoreKv(row + q_width, row + q_width + kv_width, kv_rows[r]);
  }));
  attention_.Begin(q_.data(), positions_.data(), static_cast<uint32_t>(rows_.size()));
  return absl::OkStatus();
}

void CpuBackend::StoreKv(const float* k, const float* v, const KvRow& to) const {
  const uint32_t d = config_.head_dim;
  for (uint32_t h = 0; h < config_.kv_heads; ++h) {
    bf16 k_row[kMaxHeadDim], v_row[kMaxHeadDim];
    FloatsToBf16(k + size_t{h} * d, d, k_row);
    FloatsToBf16(v + size_t{h} * d, d, v_row);
    WriteKv(geometry_, k_row, v_row, to.block, h, to.token_in_chunk);
  }
}

absl::Status CpuBackend::Attend(const AttendPlan& plan) {
  HGA_RETURN_IF_ERROR(CheckPlan(geometry_, plan, rows_.size()));
  attention_.Attend(plan);
  return absl::OkStatus();
}

const bf16* CpuBackend::GuessQueries(uint32_t layer) {
  const size_t q_width = size_t{config_.query_heads} * config_.head_dim;
  guessed_queries_.resize(rows_.size() * q_width);
  const absl::Status projected = Project(
      layer, [&](uint32_t r, float* row) { FloatsToBf16(row, q_width, &guessed_queries_[r * q_width]); });
  return projected.ok() ? guessed_queries_.data() : nullptr;
}

const float* CpuBackend::LogSumExp() {
  attention_.LogSumExp(log_sum_exp_.data());
  return log_sum_exp_.data();
}

absl::Status CpuBackend::AddResidual(const float* missed) {
  attention_.AddResidual(missed);
  return absl::OkStatus();
}

absl::Status CpuBackend::PostAttention(uint32_t layer) {
  Layer& w = layers_[layer];
  const auto rows = static_cast<uint32_t>(rows_.size());
  const size_t hidden = config_.hidden;
  attention_.Finish(attended_.data());
  HGA_RETURN_IF_ERROR(w.attn_output.Apply(attended_.data(), rows, projected_.data()));
  workers_->RunRows(rows, [&](uint32_t r, uint32_t) {
    float* x = &x_[r * hidden];
    for (size_t i = 0; i < hidden; ++i) x[i] += projected_[r * hidden + i];
    Norm(x, w.ffn_norm, &normed_[r * hidden]);
  });
  HGA_RETURN_IF_ERROR(w.mlp.Apply(config_, normed_.data(), rows, &mlp_scratch_, projected_.data()));
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
