// The CPU backend: quantised weights multiplied in integers and attention by Highway kernels, other weights by oneDNN.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_CPU_BACKEND_H_
#define HGA_GPU_WORKER_BACKEND_CPU_CPU_BACKEND_H_

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cpu/attention.h"
#include "gpu_worker/backend/cpu/linear.h"
#include "gpu_worker/backend/cpu/mlp.h"
#include "gpu_worker/backend/cpu/workers.h"
#include "gpu_worker/backend/rope.h"

namespace hga {

class CpuBackend : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const ModelWeights& weights, const KvGeometry& geometry,
                                                         const BackendOptions& options);

  std::string name() const override { return "cpu"; }
  uint32_t max_rows() const override { return max_rows_; }
  uint32_t vocab_size() const override { return config_.vocab_size; }
  absl::Status Begin(absl::Span<const BatchRow> rows) override;
  absl::Status PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) override;
  const bf16* queries() override { return rounded_queries_.data(); }
  absl::Status Attend(const AttendPlan& plan) override;
  const bf16* GuessQueries(uint32_t layer) override;
  const float* LogSumExp() override;
  absl::Status AddResidual(const float* missed) override;
  absl::Status PostAttention(uint32_t layer) override;
  absl::Status Logits(std::vector<float>* logits) override;

 private:
  struct Layer {
    std::vector<float> attn_norm, ffn_norm;  // [hidden]
    std::vector<float> qkv_bias;             // [outputs of qkv]; empty: none
    std::vector<float> q_norm, k_norm;       // [head_dim]; empty: none
    Linear qkv, attn_output;
    CpuMlp mlp;
  };

  CpuBackend(const ModelWeights& weights, const KvGeometry& geometry, const BackendOptions& options);
  absl::Status LoadLayers(const ModelWeights& weights, bool bf16_copy);
  // One row, or one head; x may be out.
  void Norm(const float* x, const std::vector<float>& scale, float* out) const;
  // Norm, QKV and what follows of all rows; use(row number, its queries, keys and values), by several threads.
  absl::Status Project(uint32_t layer, absl::FunctionRef<void(uint32_t r, float* row)> use);
  // Bias, norms and RoPE of one row of `qkv_`.
  void FinishHeads(const Layer& w, const Rope& rope, float* row) const;
  void StoreKv(const float* k, const float* v, const KvRow& to) const;

  // Constant after construction.
  const std::unique_ptr<Workers> workers_;
  const ModelConfig config_;
  const KvGeometry geometry_;
  const uint32_t max_rows_;
  const TensorView embedding_;
  std::vector<Layer> layers_;
  std::vector<float> output_norm_;
  Linear output_;
  bool onednn_ = false;  // some weights are multiplied by it

  // Step thread only. Buffers of max_rows rows, reused.
  std::vector<Rope> ropes_;  // [rows], of their positions
  CpuAttention attention_;
  std::vector<BatchRow> rows_;
  std::vector<uint32_t> positions_;
  std::vector<float> x_, normed_, qkv_, q_, attended_, projected_, log_sum_exp_;
  MlpScratch mlp_scratch_;
  std::vector<bf16> rounded_queries_, guessed_queries_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_CPU_BACKEND_H_
