#include "gpu_worker/backend/reference/reference_backend.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/kv/kv_rows.h"
#include "gpu_worker/backend/check_rows.h"
#include "gpu_worker/backend/expert_choice.h"
#include "gpu_worker/model/tensor_row.h"

namespace hga {

ReferenceBackend::ReferenceBackend(const ModelWeights& weights, const KvGeometry& geometry,
                                   const BackendOptions& options)
    : weights_(weights), config_(weights.config), geometry_(geometry), max_rows_(options.max_rows), rope_(config_),
      k_row_(config_.head_dim), v_row_(config_.head_dim) {}

ReferenceBackend::Vector ReferenceBackend::Multiply(const TensorView& w, const Vector& x) {
  Vector y(w.rows);
  std::vector<float> row(w.cols);
  for (uint32_t r = 0; r < w.rows; ++r) {
    DequantizeTensorRow(w, r, row.data());
    double sum = 0;
    for (uint32_t c = 0; c < w.cols; ++c) sum += row[c] * x[c];
    y[r] = sum;
  }
  return y;
}

ReferenceBackend::Vector ReferenceBackend::Norm(const TensorView& w, const Vector& x) const {
  std::vector<float> scale(w.cols);
  DequantizeTensorRow(w, 0, scale.data());
  double squares = 0;
  for (double v : x) squares += v * v;
  const double factor = 1 / std::sqrt(squares / x.size() + config_.rms_epsilon);
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * factor * scale[i];
  return y;
}

ReferenceBackend::Vector ReferenceBackend::Project(const TensorView& w, const TensorView& bias, const TensorView& norm,
                                                   const Vector& x) const {
  Vector y = Multiply(w, x);
  if (bias.present()) {
    std::vector<float> add(bias.cols);
    DequantizeTensorRow(bias, 0, add.data());
    for (size_t i = 0; i < y.size(); ++i) y[i] += add[i];
  }
  if (!norm.present()) return y;
  for (auto head = y.begin(); head != y.end(); head += config_.head_dim) {
    const Vector normed = Norm(norm, Vector(head, head + config_.head_dim));
    std::copy(normed.begin(), normed.end(), head);
  }
  return y;
}

ReferenceBackend::Vector ReferenceBackend::GatedMlp(const TensorView& gate, const TensorView& up,
                                                    const TensorView& down, const Vector& x) {
  Vector inner = Multiply(gate, x);
  const Vector other = Multiply(up, x);
  for (size_t i = 0; i < inner.size(); ++i) inner[i] = inner[i] / (1 + std::exp(-inner[i])) * other[i];
  return Multiply(down, inner);
}

ReferenceBackend::Vector ReferenceBackend::Mlp(const LayerWeights& w, const Vector& x) const {
  if (config_.experts == 0) return GatedMlp(w.ffn_gate, w.ffn_up, w.ffn_down, x);
  Vector sum(x.size(), 0.0);
  for (const ExpertShare& share : ChooseExperts(config_, Multiply(w.expert_router, x).data())) {
    const uint32_t e = share.expert;
    const Vector y = GatedMlp(w.expert_gate[e], w.expert_up[e], w.expert_down[e], x);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += share.weight * y[i];
  }
  return sum;
}

absl::Status ReferenceBackend::Begin(absl::Span<const BatchRow> rows) {
  if (absl::Status status = CheckRows(rows, max_rows_, config_); !status.ok()) return status;
  rows_.assign(rows.begin(), rows.end());
  x_.clear();
  std::vector<float> row(config_.hidden);
  for (const BatchRow& r : rows_) {
    DequantizeTensorRow(weights_.embedding, r.token_id, row.data());
    x_.emplace_back(row.begin(), row.end());
  }
  return absl::OkStatus();
}

absl::Status ReferenceBackend::PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) {
  if (absl::Status status = CheckKvRows(geometry_, layer, kv_rows, rows_.size()); !status.ok()) return status;
  const LayerWeights& w = weights_.layers[layer];
  const uint32_t d = config_.head_dim;
  q_.clear();
  rounded_queries_.clear();
  for (size_t r = 0; r < rows_.size(); ++r) {
    const Vector normed = Norm(w.attn_norm, x_[r]);
    Vector q = Project(w.q, w.q_bias, w.q_norm, normed), k = Project(w.k, w.k_bias, w.k_norm, normed);
    const Vector v = Project(w.v, w.v_bias, {}, normed);
    rope_.SetPosition(rows_[r].position);
    for (uint32_t h = 0; h < config_.query_heads; ++h) rope_.Apply(&q[h * d]);
    for (uint32_t h = 0; h < config_.kv_heads; ++h) {
      rope_.Apply(&k[h * d]);
      for (uint32_t i = 0; i < d; ++i) {
        k_row_[i] = ToBf16(static_cast<float>(k[h * d + i]));
        v_row_[i] = ToBf16(static_cast<float>(v[h * d + i]));
      }
      WriteKv(geometry_, k_row_.data(), v_row_.data(), kv_rows[r].block, h, kv_rows[r].token_in_chunk);
    }
    for (double value : q) rounded_queries_.push_back(ToBf16(static_cast<float>(value)));
    q_.push_back(std::move(q));
  }
  partials_.assign(rows_.size() * config_.query_heads,
                   Partial{-std::numeric_limits<double>::infinity(), 0, Vector(d, 0.0), Vector(d, 0.0)});
  return absl::OkStatus();
}

absl::Status ReferenceBackend::Attend(const AttendPlan& plan) {
  if (absl::Status status = CheckPlan(geometry_, plan, rows_.size()); !status.ok()) return status;
  for (const QueryBlock& block : plan.blocks) {
    for (uint32_t row = 0; row < block.rows; ++row) AttendRow(block, row);
  }
  return absl::OkStatus();
}

const float* ReferenceBackend::LogSumExp() {
  log_sum_exp_.clear();
  for (const Partial& partial : partials_) log_sum_exp_.push_back(static_cast<float>(partial.m + std::log(partial.l)));
  return log_sum_exp_.data();
}

void ReferenceBackend::AttendRow(const QueryBlock& block, uint32_t row) {
  const uint32_t r = block.first_row + row, d = config_.head_dim;
  for (uint32_t h = 0; h < config_.query_heads; ++h) {
    for (const KvRun& run : block.runs[h / geometry_.queries_per_kv_head()]) {
      if (row < run.first_row) continue;
      for (uint32_t j = 0; j < run.tokens && run.position + j <= rows_[r].position; ++j) {
        const KvPlace place = PlaceAfter(geometry_, {run.k, run.v}, j);
        ReadKey(geometry_, place, k_row_.data());
        ReadValue(geometry_, place, v_row_.data());
        AddKey(&q_[r][h * d], k_row_.data(), v_row_.data(), &partials_[r * config_.query_heads + h]);
      }
    }
  }
}

void ReferenceBackend::AddKey(const double* query, const bf16* k, const bf16* v, Partial* partial) const {
  const uint32_t d = config_.head_dim;
  double score = 0;
  for (uint32_t i = 0; i < d; ++i) score += query[i] * ToFloat(k[i]);
  score /= std::sqrt(static_cast<double>(d));
  const double m = std::max(partial->m, score);
  const double keep = std::exp(partial->m - m), weight = std::exp(score - m);
  for (uint32_t i = 0; i < d; ++i) {
    partial->o[i] = partial->o[i] * keep + weight * ToFloat(v[i]);
    partial->values[i] += ToFloat(v[i]);
  }
  ++partial->keys;
  partial->l = partial->l * keep + weight;
  partial->m = m;
}

absl::Status ReferenceBackend::AddResidual(const float* missed) {
  for (size_t i = 0; i < partials_.size(); ++i) {
    Partial& p = partials_[i];
    if (p.keys == 0 || !(missed[i] > -std::numeric_limits<float>::infinity())) continue;
    const double m = std::max(p.m, double{missed[i]}), keep = std::exp(p.m - m), weight = std::exp(missed[i] - m);
    for (size_t d = 0; d < p.o.size(); ++d) p.o[d] = p.o[d] * keep + weight * p.values[d] / p.keys;
    p.l = p.l * keep + weight;
    p.m = m;
  }
  return absl::OkStatus();
}

absl::Status ReferenceBackend::PostAttention(uint32_t layer) {
  const LayerWeights& w = weights_.layers[layer];
  for (size_t r = 0; r < rows_.size(); ++r) {
    Vector attended;
    for (uint32_t h = 0; h < config_.query_heads; ++h) {
      const Partial& partial = partials_[r * config_.query_heads + h];
      for (double value : partial.o) attended.push_back(partial.l > 0 ? value / partial.l : 0);
    }
    const Vector projected = Multiply(w.attn_output, attended);
    for (size_t i = 0; i < projected.size(); ++i) x_[r][i] += projected[i];
    const Vector mlp = Mlp(w, Norm(w.ffn_norm, x_[r]));
    for (size_t i = 0; i < mlp.size(); ++i) x_[r][i] += mlp[i];
  }
  return absl::OkStatus();
}

absl::Status ReferenceBackend::Logits(std::vector<float>* logits) {
  logits->clear();
  for (size_t r = 0; r < rows_.size(); ++r) {
    if (!rows_[r].want_logits) continue;
    for (double value : Multiply(weights_.output, Norm(weights_.output_norm, x_[r]))) {
      logits->push_back(static_cast<float>(value));
    }
  }
  return absl::OkStatus();
}

}  // namespace hga
