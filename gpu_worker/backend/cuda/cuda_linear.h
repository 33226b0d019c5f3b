// y = x W^T with weights on the device.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_CUDA_LINEAR_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_CUDA_LINEAR_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/weight_loader.h"

namespace hga {

// Rows of activations on the device. Steps of up to kGemvRows rows use the floats, larger ones the bf16.
struct Activations {
  const float* floats = nullptr;
  const bf16* rounded = nullptr;
};
inline bool IsFewRows(uint32_t rows) { return rows <= kGemvRows; }

// One to three matrices over the same input, outputs side by side. Step thread only.
class CudaLinear {
 public:
  CudaLinear() = default;
  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<CudaLinear> Create(WeightLoader* loader, const std::vector<TensorView>& parts);

  // x: [rows][cols], y: [rows][outputs]. rounded_weights: room for the largest FP8 part as bf16, with has_gemm.
  absl::Status Apply(Device* device, bf16* rounded_weights, const Activations& x, uint32_t rows, float* y) const;
  // The same in float whatever the number of rows, without the bf16 input.
  absl::Status ApplyExactly(Device* device, const float* x, uint32_t rows, float* y) const;

  uint32_t outputs() const { return parts_.outputs; }
  // Bytes that Apply needs for rounded weights: 0 without FP8.
  static uint64_t RoundedBytes(const std::vector<TensorView>& parts);

 private:
  bool GemmTakes() const;

  std::vector<LoadedMatrix> loaded_;
  MatrixParts parts_;
};

// A stack of expert matrices, of which each row uses one.
class CudaExperts {
 public:
  CudaExperts() = default;
  static absl::StatusOr<CudaExperts> Create(WeightLoader* loader,
                                            const std::vector<const std::vector<TensorView>*>& parts);

  // Few rows. expert_of: [rows]; `share` consecutive rows have the same x.
  absl::Status ApplyFew(Device* device, const float* x, const uint32_t* expert_of, uint32_t rows, uint32_t share,
                        float* y) const;
  // Rows in the order and tiles that GroupExperts made; at most max_tiles.
  absl::Status ApplyMany(Device* device, const bf16* x, const ExpertTile* tiles, const uint32_t* tile_count,
                         uint32_t max_tiles, const uint32_t* order, uint32_t rows, uint32_t share, float* y) const;

 private:
  std::vector<LoadedMatrix> loaded_;
  MatrixParts parts_;
};

// Most tiles that `pairs` rows of `experts` experts can make.
constexpr uint32_t MaxExpertTiles(uint32_t pairs, uint32_t experts) {
  return pairs / kGemmTileRows + (experts < pairs ? experts : pairs);
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_CUDA_LINEAR_H_
