// The oracle: plain loops and double accumulators. Slow and right; what the other backends are held against.
#ifndef HGA_GPU_WORKER_BACKEND_REFERENCE_REFERENCE_BACKEND_H_
#define HGA_GPU_WORKER_BACKEND_REFERENCE_REFERENCE_BACKEND_H_

#include <string>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/rope.h"

namespace hga {

class ReferenceBackend : public Backend {
 public:
  ReferenceBackend(const ModelWeights& weights, const KvGeometry& geometry, const BackendOptions& options);

  std::string name() const override { return "reference"; }
  uint32_t max_rows() const override { return max_rows_; }
  uint32_t vocab_size() const override { return config_.vocab_size; }
  absl::Status Begin(absl::Span<const BatchRow> rows) override;
  absl::Status PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) override;
  const bf16* queries() override { return rounded_queries_.data(); }
  absl::Status Attend(const AttendPlan& plan) override;
  const float* LogSumExp() override;
  absl::Status AddResidual(const float* missed) override;
  absl::Status PostAttention(uint32_t layer) override;
  absl::Status Logits(std::vector<float>* logits) override;

 private:
  using Vector = std::vector<double>;
  // Attention over some of the tokens: o / l is the result, m the largest score.
  struct Partial {
    double m, l;
    Vector o;  // [head_dim]
    Vector values;  // sum of the values, [head_dim]
    uint32_t keys = 0;
  };

  static Vector Multiply(const TensorView& w, const Vector& x);
  Vector Norm(const TensorView& w, const Vector& x) const;
  // W x, plus the bias and with each head normed where the model has those.
  Vector Project(const TensorView& w, const TensorView& bias, const TensorView& norm, const Vector& x) const;
  static Vector GatedMlp(const TensorView& gate, const TensorView& up, const TensorView& down, const Vector& x);
  Vector Mlp(const LayerWeights& w, const Vector& x) const;
  void AttendRow(const QueryBlock& block, uint32_t row);
  void AddKey(const double* query, const bf16* k, const bf16* v, Partial* partial) const;

  // Constant after construction.
  const ModelWeights& weights_;
  const ModelConfig& config_;
  const KvGeometry geometry_;
  const uint32_t max_rows_;

  // Step thread only.
  Rope rope_;
  std::vector<BatchRow> rows_;
  std::vector<Vector> x_;                  // [rows][hidden]
  std::vector<Vector> q_;                  // [rows][query_heads * head_dim]
  std::vector<Partial> partials_;          // [rows][query_heads]
  std::vector<bf16> rounded_queries_;
  std::vector<bf16> k_row_, v_row_;        // [head_dim] at hand
  std::vector<float> log_sum_exp_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_REFERENCE_REFERENCE_BACKEND_H_
