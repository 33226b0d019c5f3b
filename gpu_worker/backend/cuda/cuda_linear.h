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
// Room for what Apply makes of weights or activations on its way. All pointers may be nullptr.
struct GemmScratch {
  bf16* rounded_weights = nullptr;  // the largest FP8 part as bf16, with has_gemm
  uint8_t* f8 = nullptr;            // [f8_rows][most columns]: FP8 parts are multiplied as they are; else made bf16
  float* f8_scales = nullptr;       // [most columns / kF8Group][f8_rows]
  uint32_t f8_rows = 0;
};

inline bool IsFewRows(uint32_t rows) { return rows <= kGemvRows; }

// Rows of an F8Gemm come in multiples of so many.
inline constexpr uint32_t kF8Rows = 16;

// One to three matrices over the same input, outputs side by side. Step thread only.
class CudaLinear {
 public:
  CudaLinear() = default;
  // RESOURCE_EXHAUSTED.
  static absl::StatusOr<CudaLinear> Create(WeightLoader* loader, const std::vector<TensorView>& parts);

  // x: [rows][cols], y: [rows][outputs]; with scratch.f8 rows of y up to a multiple of kF8Rows are overwritten, but no
  // more than f8_rows in all.
  absl::Status Apply(Device* device, const GemmScratch& scratch, const Activations& x, uint32_t rows, float* y) const;
  // sum += x W^T; for few rows in one launch, else by way of `product`, of the same size.
  absl::Status AddTo(Device* device, const GemmScratch& scratch, const Activations& x, uint32_t rows, float* product,
                     float* sum) const;
  // As Apply, in float whatever the number of rows, without the bf16 input.
  absl::Status ApplyExactly(Device* device, const float* x, uint32_t rows, float* y) const;

  uint32_t outputs() const { return parts_.outputs; }
  // Bytes that Apply needs for rounded weights: 0 without FP8.
  static uint64_t RoundedBytes(const std::vector<TensorView>& parts);
  // Columns of the widest part that F8Gemm takes; 0: none.
  static uint32_t F8Cols(const std::vector<TensorView>& parts);

 private:
  bool GemmTakes() const;
  absl::Status Quantize(Device* device, const GemmScratch& scratch, const bf16* x, uint32_t rows,
                        uint32_t padded) const;
  absl::Status ApplyPart(Device* device, const GemmScratch& scratch, const MatrixPart& part, const bf16* x,
                         uint32_t rows, float* y) const;

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
