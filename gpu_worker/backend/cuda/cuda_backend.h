// The CUDA backend: weights and activations on a device, K/V in the host's memory with a tier of copies on the device.
// Steps of few rows multiply in float straight from the weights; larger ones in bf16 by cuBLASLt or tensor-core tiles.
// Embeddings are looked up on the host: a row is a few kilobytes, the table would take 2% of a 32 GB device.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_CUDA_BACKEND_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_CUDA_BACKEND_H_

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/cuda_attention.h"
#include "gpu_worker/backend/cuda/cuda_linear.h"
#include "gpu_worker/backend/cuda/cuda_mlp.h"
#include "gpu_worker/backend/cuda/workspace.h"

namespace hga {

struct CudaBackendOptions {
  uint32_t max_rows = 256;
  uint64_t device_memory_limit = 0;          // 0: what is free but for kDeviceReserve
  uint64_t device_tier_bytes = UINT64_MAX;   // UINT64_MAX: what the rest leaves of the limit
  uint64_t window_bytes = uint64_t{16} << 20;  // see CudaAttentionOptions
  uint32_t tier_unit_tokens = 4;             // see CudaAttentionOptions
  uint32_t part_states = 8192;
  uint64_t gemm_bytes = uint64_t{32} << 20;  // of cuBLASLt
};

// Left free where no limit is given: for what the driver takes later.
inline constexpr uint64_t kDeviceReserve = uint64_t{512} << 20;

// What the backend will allocate on the device, in bytes, known before anything is.
struct DevicePlan {
  uint64_t limit = 0;
  uint64_t weights = 0, workspace = 0, window = 0, tier = 0;
  uint64_t total() const { return weights + workspace + window + tier; }
};

class CudaBackend : public Backend {
 public:
  // RESOURCE_EXHAUSTED: the plan is beyond the limit; says what needs how much. Nothing is allocated after Create.
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Create(std::unique_ptr<Device> device,
                                                             const ModelWeights& weights, const KvGeometry& geometry,
                                                             const CudaBackendOptions& options);
  ~CudaBackend() override;

  std::string name() const override { return "cuda"; }
  uint32_t max_rows() const override { return options_.max_rows; }
  absl::Status Begin(absl::Span<const BatchRow> rows) override;
  absl::Status PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) override;
  const bf16* queries() const override { return queries_.as<bf16>(); }
  absl::Status Attend(const AttendPlan& plan) override;
  absl::Status Prefetch(uint32_t layer, const AttendPlan& plan) override;
  const float* LogSumExp() override;
  absl::Status AddResidual(const float* missed) override;
  absl::Status PostAttention(uint32_t layer) override;
  void KvIsRewritten() override { kv_is_rewritten_ = true; }
  absl::Status Logits(std::vector<float>* logits) override;
  DeviceTierUse device_tier_use() const override { return attention_->use(); }
  absl::Status RegisterKv(const void* memory, size_t bytes) override { return device_->RegisterHost(memory, bytes); }
  void UnregisterKv(const void* memory) override { device_->UnregisterHost(memory); }

  const DevicePlan& plan() const { return plan_; }
  const DeviceMemory& memory() const { return memory_; }

 private:
  struct Layer {
    DeviceBuffer attn_norm, ffn_norm, qkv_bias, q_norm, k_norm;
    CudaLinear qkv, attn_output;
    CudaMlp mlp;
  };

  CudaBackend(std::unique_ptr<Device> device, const ModelWeights& weights, const KvGeometry& geometry,
              const CudaBackendOptions& options, const DevicePlan& plan);
  absl::Status Allocate(const ModelWeights& weights);
  absl::Status Load(const ModelWeights& weights);
  absl::Status Norm(const DeviceBuffer& scale, uint32_t rows, bool exactly, const uint32_t* take);
  absl::Status FinishHeads(const Layer& w, uint32_t rows);
  absl::Status ReadQueries();
  absl::Status ReadKv(DeviceStream stream);
  void StoreKv();
  // Whether K and V go to the host behind the layer's back: worth it where they are many.
  bool StreamsKv() const { return !kv_is_rewritten_ && !IsFewRows(rows()); }
  void FillRows();
  absl::Status LogitsOf(const std::vector<uint32_t>& rows, float* logits);
  uint32_t rows() const { return static_cast<uint32_t>(rows_.size()); }

  // Constant after construction.
  const std::unique_ptr<Device> device_;
  const ModelConfig config_;
  const KvGeometry geometry_;
  const CudaBackendOptions options_;
  const DevicePlan plan_;
  const TensorView embedding_;  // on the host
  const std::vector<double> rope_frequencies_;
  const double rope_magnitude_;
  DeviceMemory memory_;
  std::vector<Layer> layers_;
  DeviceBuffer output_norm_;
  CudaLinear output_;

  // Step thread only.
  Workspace workspace_{};
  std::unique_ptr<CudaAttention> attention_;
  PinnedBuffer x_, positions_, cos_sin_;                    // to the device
  PinnedBuffer queries_, kv_, log_sum_exp_, logits_;         // from there
  PinnedBuffer take_, missed_;                              // to it
  DeviceEvent heads_done_, kv_read_;
  std::vector<BatchRow> rows_;
  std::vector<KvRow> kv_rows_;  // of the layer at hand, while their K and V are on the way
  uint32_t layer_ = 0;
  bool kv_is_rewritten_ = false;
};

// RESOURCE_EXHAUSTED as Create. free_bytes: of the device, where no limit is given.
absl::StatusOr<DevicePlan> PlanDevice(const ModelWeights& weights, const KvGeometry& geometry,
                                      const CudaBackendOptions& options, bool has_gemm, uint64_t free_bytes);
CudaAttentionOptions AttentionOptionsOf(const ModelConfig& config, const CudaBackendOptions& options,
                                        uint64_t tier_bytes);
WorkspaceShape WorkspaceShapeOf(const ModelWeights& weights, const CudaBackendOptions& options, bool has_gemm);
// A table of the plan, one use a line.
std::string DescribePlan(const DevicePlan& plan);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_CUDA_BACKEND_H_
