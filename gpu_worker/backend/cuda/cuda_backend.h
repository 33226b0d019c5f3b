// The CUDA backend: weights and activations on a device, K/V in the host's memory with a tier of copies on the device.
// Steps of few rows multiply in float straight from the weights; larger ones in bf16 by cuBLASLt or tensor-core tiles.
// Embeddings are looked up on the host: a row is a few kilobytes, the table would take 2% of a 32 GB device.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_CUDA_BACKEND_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_CUDA_BACKEND_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/cuda_attention.h"
#include "gpu_worker/backend/cuda/cuda_linear.h"
#include "gpu_worker/backend/cuda/cuda_mlp.h"
#include "gpu_worker/backend/cuda/device_plan.h"
#include "gpu_worker/backend/cuda/route_mirror.h"
#include "gpu_worker/backend/cuda/workspace.h"

namespace hga {

class CudaBackend : public Backend {
 public:
  // RESOURCE_EXHAUSTED: the plan is beyond the limit; says what needs how much. Nothing is allocated after Create.
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Create(std::unique_ptr<Device> device,
                                                             const ModelWeights& weights, const KvGeometry& geometry,
                                                             const CudaBackendOptions& options);
  ~CudaBackend() override;

  std::string name() const override { return "cuda"; }
  uint32_t max_rows() const override { return options_.max_rows; }
  uint32_t vocab_size() const override { return config_.vocab_size; }
  absl::Status Begin(absl::Span<const BatchRow> rows) override;
  absl::Status PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) override;
  const bf16* queries() override;
  absl::Status Attend(const AttendPlan& plan) override;
  const bf16* GuessQueries(uint32_t layer) override;
  absl::Status Prefetch(uint32_t layer, const AttendPlan& plan) override;
  bool can_prefetch() const override { return plan_.tier > 0 && !options_.in_place; }
  const float* LogSumExp() override;
  absl::Status AddResidual(const float* missed) override;
  absl::Status PostAttention(uint32_t layer) override;
  void KvIsRewritten() override { kv_is_rewritten_ = true; }
  absl::Status Logits(std::vector<float>* logits) override;
  absl::Status TopLogits(uint32_t count, absl::Span<const TopRow> rows, std::vector<TokenLogit>* top,
                         std::vector<uint64_t>* masses) override;
  DeviceTierUse device_tier_use() const override { return attention_->use(); }
  std::unique_ptr<RouteClient> MirrorRouter(std::unique_ptr<RouteClient> router, const SummaryMethod* method,
                                            SummarySource source) override;
  RouteMirrorUse route_mirror_use() const override { return mirror_ == nullptr ? RouteMirrorUse{} : mirror_->use(); }
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
  void TryF8();
  absl::Status Norm(const DeviceBuffer& scale, uint32_t rows, bool exactly, const uint32_t* take);
  absl::Status Project(const Layer& w);
  FinishHeadsArgs HeadsArgs(const Layer& w) const;
  absl::Status LaunchHeads(const FinishHeadsArgs& args);
  // What the device does of PreAttention, and of PostAttention.
  absl::Status StartLayer(uint32_t layer);
  absl::Status EndLayer(uint32_t layer);
  // The end of layer `boundary` - 1 and the start of layer `boundary`, as far as there are such: all that the device
  // does between two attentions.
  absl::Status CrossBoundary(uint32_t boundary);
  absl::Status LaunchBoundary(uint32_t boundary);
  absl::Status ReadQueries();
  absl::Status ReadKv(DeviceStream stream);
  void StoreKv();
  // Waits until the layer's queries, K and V have come to the host; what few rows have is stored. Once a layer.
  absl::Status TakeRows();
  // Whether K and V go to the host behind the layer's back: worth it where they are many.
  bool StreamsKv() const { return !kv_is_rewritten_ && !IsFewRows(rows()); }
  void FillRows();
  // Calls use(n) with the logits of the next n rows that want them in the workspace.
  absl::Status ForLogits(const std::function<absl::Status(uint32_t n)>& use);
  absl::Status Penalize(absl::Span<const TopRow> rows);
  absl::Status SumMasses(absl::Span<const TopRow> rows, const TokenLogit* top, uint32_t keep);
  absl::Status PickTop(uint32_t rows, uint32_t count, const TokenLogit** top);
  static constexpr uint32_t kNoLayer = UINT32_MAX;
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
  std::unique_ptr<RouteMirror> mirror_;  // nullptr: the router selects everything
  PinnedBuffer x_, positions_, cos_sin_;                    // to the device
  PinnedBuffer queries_, guessed_, kv_, log_sum_exp_, logits_, top_, masses_;  // from there
  PinnedBuffer take_, missed_, seen_, row_floats_;                              // to it
  DeviceEvent heads_done_, kv_read_;
  DeviceEvent rows_read_;  // queries of the layer at hand are on the host, and few rows' K and V
  std::vector<BatchRow> rows_;
  std::vector<KvRow> kv_rows_;  // of the layer at hand, while their K and V are on the way
  bool rows_taken_ = true;      // see TakeRows
  uint32_t layer_ = 0;
  uint32_t started_ = kNoLayer;  // the layer that the device has begun, ahead of PreAttention
  std::vector<std::vector<std::optional<DeviceGraph>>> graphs_;  // [kGemvRows][layers + 1], for rows - 1 and boundary
  bool kv_is_rewritten_ = false;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_CUDA_BACKEND_H_
