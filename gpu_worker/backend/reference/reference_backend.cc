#include "gpu_worker/backend/reference/reference_backend.h"

#include <algorithm>
#include <cmath>

#include "common/base/status.h"
#include "gpu_worker/backend/partial.h"
#include "gpu_worker/backend/rope.h"
#include "gpu_worker/backend/validate.h"

namespace hga {
namespace {

using Rows = std::vector<double>;  // [rows][n]

// y[r] = W x[r] for every row.
Rows Multiply(const TensorView& w, const Rows& x, size_t rows) {
  Rows y(rows * w.rows);
  std::vector<float> weights(w.cols);
  for (uint32_t n = 0; n < w.rows; ++n) {
    DequantizeRow(w.type, w.row(n), w.cols, weights.data());
    for (size_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (uint32_t k = 0; k < w.cols; ++k) sum += double{weights[k]} * x[r * w.cols + k];
      y[r * w.rows + n] = sum;
    }
  }
  return y;
}

Rows RmsNorm(const TensorView& gain, double epsilon, const Rows& x, size_t rows) {
  std::vector<float> gains(gain.cols);
  DequantizeRow(gain.type, gain.data, gain.cols, gains.data());
  Rows y(x.size());
  for (size_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (uint32_t i = 0; i < gain.cols; ++i) squares += x[r * gain.cols + i] * x[r * gain.cols + i];
    const double scale = 1 / std::sqrt(squares / gain.cols + epsilon);
    for (uint32_t i = 0; i < gain.cols; ++i) y[r * gain.cols + i] = x[r * gain.cols + i] * scale * gains[i];
  }
  return y;
}

class ReferenceBackend : public Backend {
 public:
  ReferenceBackend(const ModelWeights& weights, const KvGeometry& geometry, const BackendOptions& options)
      : weights_(weights), config_(weights.config), geometry_(geometry), max_rows_(options.max_rows) {}

  std::string name() const override { return "reference"; }
  uint32_t max_rows() const override { return max_rows_; }

  absl::Status Begin(absl::Span<const BatchRow> rows) override {
    HGA_RETURN_IF_ERROR(ValidateRows(rows, config_, max_rows_));
    rows_.assign(rows.begin(), rows.end());
    x_.clear();
    std::vector<float> row(config_.hidden);
    for (const BatchRow& r : rows_) {
      DequantizeRow(weights_.embedding.type, weights_.embedding.row(r.token_id), config_.hidden, row.data());
      x_.insert(x_.end(), row.begin(), row.end());
    }
    return absl::OkStatus();
  }

  absl::Status PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) override {
    HGA_RETURN_IF_ERROR(ValidateKvRows(layer, kv_rows, rows_.size(), geometry_));
    const LayerWeights& w = weights_.layers[layer];
    const Rows normed = RmsNorm(w.attn_norm, config_.rms_epsilon, x_, rows_.size());
    q_ = Multiply(w.q, normed, rows_.size());
    Rows k = Multiply(w.k, normed, rows_.size());
    const Rows v = Multiply(w.v, normed, rows_.size());
    for (size_t r = 0; r < rows_.size(); ++r) {
      Rotate(rows_[r].position, config_.query_heads, &q_[r * config_.query_heads * config_.head_dim]);
      Rotate(rows_[r].position, config_.kv_heads, &k[r * config_.kv_heads * config_.head_dim]);
      WriteKv(kv_rows[r], &k[r * config_.kv_heads * config_.head_dim], &v[r * config_.kv_heads * config_.head_dim]);
    }
    queries_.resize(q_.size());
    for (size_t i = 0; i < q_.size(); ++i) queries_[i] = ToBf16(static_cast<float>(q_[i]));
    m_.assign(rows_.size() * config_.query_heads, EmptyPartialMax<double>());
    l_.assign(m_.size(), 0);
    o_.assign(q_.size(), 0);
    return absl::OkStatus();
  }

  const bf16* queries() const override { return queries_.data(); }

  absl::Status Attend(const AttendPlan& plan) override {
    HGA_RETURN_IF_ERROR(ValidatePlan(plan, rows_.size(), geometry_));
    for (const QueryBlock& block : plan.blocks) {
      for (uint32_t i = 0; i < block.rows; ++i) {
        for (uint32_t h = 0; h < config_.query_heads; ++h) {
          for (const KvRun& run : block.runs[h / geometry_.queries_per_kv_head()]) {
            if (i >= run.first_row) AttendRun(block.first_row + i, h, run);
          }
        }
      }
    }
    return absl::OkStatus();
  }

  absl::Status PostAttention(uint32_t layer) override {
    const LayerWeights& w = weights_.layers[layer];
    const size_t rows = rows_.size(), d = config_.head_dim;
    Rows attended(o_.size());
    for (size_t i = 0; i < m_.size(); ++i) FinishPartial(m_[i], l_[i], &o_[i * d], config_.head_dim, &attended[i * d]);
    Add(Multiply(w.attn_output, attended, rows));
    const Rows normed = RmsNorm(w.ffn_norm, config_.rms_epsilon, x_, rows);
    Rows gate = Multiply(w.ffn_gate, normed, rows);
    const Rows up = Multiply(w.ffn_up, normed, rows);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    Add(Multiply(w.ffn_down, gate, rows));
    return absl::OkStatus();
  }

  absl::Status Logits(std::vector<float>* logits) override {
    Rows wanted;
    size_t count = 0;
    for (size_t r = 0; r < rows_.size(); ++r) {
      if (!rows_[r].want_logits) continue;
      wanted.insert(wanted.end(), x_.begin() + r * config_.hidden, x_.begin() + (r + 1) * config_.hidden);
      ++count;
    }
    const Rows result =
        Multiply(weights_.output, RmsNorm(weights_.output_norm, config_.rms_epsilon, wanted, count), count);
    logits->assign(result.begin(), result.end());
    return absl::OkStatus();
  }

 private:
  void Rotate(uint32_t position, uint32_t heads, double* row) const {
    std::vector<double> cosines(config_.rope_dims / 2), sines(config_.rope_dims / 2);
    FillRope(config_, position, cosines.data(), sines.data());
    for (uint32_t h = 0; h < heads; ++h) {
      ApplyRope(config_.rope_style, config_.rope_dims, cosines.data(), sines.data(), row + h * config_.head_dim);
    }
  }

  void WriteKv(const KvRow& to, const double* k, const double* v) const {
    for (uint32_t h = 0; h < config_.kv_heads; ++h) {
      for (uint32_t i = 0; i < config_.head_dim; ++i) {
        const size_t from = h * config_.head_dim + i;
        to.block[geometry_.k_row(h, to.token_in_chunk) + i] = ToBf16(static_cast<float>(k[from]));
        to.block[geometry_.v_row(h, to.token_in_chunk) + i] = ToBf16(static_cast<float>(v[from]));
      }
    }
  }

  // Merges the run's visible keys, one partial each.
  void AttendRun(size_t row, uint32_t head, const KvRun& run) {
    const uint32_t d = config_.head_dim;
    const size_t at = row * config_.query_heads + head;
    std::vector<double> value(d);
    for (uint32_t j = 0; j < run.tokens && run.position + j <= rows_[row].position; ++j) {
      double score = 0;
      for (uint32_t i = 0; i < d; ++i) {
        score += q_[at * d + i] * ToFloat(run.k[j * d + i]);
        value[i] = ToFloat(run.v[j * d + i]);
      }
      MergePartial(score / std::sqrt(double{1} * d), 1.0, value.data(), d, &m_[at], &l_[at], &o_[at * d]);
    }
  }

  void Add(const Rows& y) {
    for (size_t i = 0; i < x_.size(); ++i) x_[i] += y[i];
  }

  // Constant after construction.
  const ModelWeights& weights_;
  const ModelConfig config_;
  const KvGeometry geometry_;
  const uint32_t max_rows_;
  // Owned by the step thread.
  std::vector<BatchRow> rows_;
  Rows x_;                      // [rows][hidden], the residual stream
  Rows q_;                      // [rows][query_heads][head_dim]
  std::vector<bf16> queries_;   // q_ rounded
  std::vector<double> m_, l_;   // [rows][query_heads]
  std::vector<double> o_;       // [rows][query_heads][head_dim]
};

}  // namespace

std::unique_ptr<Backend> NewReferenceBackend(const ModelWeights& weights, const KvGeometry& geometry,
                                             const BackendOptions& options) {
  return std::make_unique<ReferenceBackend>(weights, geometry, options);
}

}  // namespace hga
