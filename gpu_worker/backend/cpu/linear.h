// y = W x for several rows x. Quantised weights are multiplied as they lie, in integers: GEMV for a few rows (decode),
// GEMM for many (prefill). Other weights' GEMM is oneDNN's, on an unpacked copy, and that of quantised ones on request.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_LINEAR_H_
#define HGA_GPU_WORKER_BACKEND_CPU_LINEAR_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "gpu_worker/backend/cpu/float_gemm.h"
#include "gpu_worker/backend/cpu/integer_gemm.h"
#include "gpu_worker/backend/cpu/workers.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// Tiles of kGemmRows with at most so many rows go through GEMV: decode, and the last tokens of a prompt.
inline constexpr uint32_t kGemvRowsMax = 8;

// What all layers of a backend share. Step thread only.
struct LinearContext {
  explicit LinearContext(Workers* workers, bool bf16_copy = false) : workers(workers), bf16_copy(bf16_copy) {}

  Workers* const workers;
  const bool bf16_copy;  // of quantised weights, where the CPU multiplies bf16
  std::shared_ptr<GemmContext> floats = NewGemmContext();
  RoundedRows rounded;  // the input of the product at hand
};

// One or several matrices over the same input, outputs side by side. Step thread only; parallel inside.
class Linear {
 public:
  // `parts` have equal cols. gemm: tiles of many rows go through GEMM, which may need a copy of the weights. Without it
  // every row goes through GEMV, so that its bits do not depend on how many rows there are.
  static absl::StatusOr<Linear> Create(std::shared_ptr<LinearContext> context, std::vector<TensorView> parts,
                                       bool gemm);

  // x: [rows][cols], y: [rows][outputs]
  absl::Status Apply(const float* x, uint32_t rows, float* y);

  uint32_t cols() const { return parts_[0].cols; }
  uint32_t outputs() const { return outputs_; }
  size_t packed_bytes() const { return packed_ == nullptr ? 0 : packed_->packed_bytes(); }

 private:
  // Neighbouring outputs of one part, multiplied by one thread.
  struct Piece {
    const TensorView* part;
    uint32_t first, count;  // of the part's rows
    uint32_t output;        // of the first one
  };

  void CutPieces();
  // use(a piece, or a part of one), in any order, in any thread.
  static void UsePart(Piece piece, uint32_t part, absl::FunctionRef<void(const Piece&)> use);
  void RunParts(absl::FunctionRef<void(const Piece&)> use);
  void RunPieces(absl::FunctionRef<void(const Piece&)> use);
  void IntegerApply(const float* x, uint32_t rows, float* y);
  void IntegerPieces(uint32_t first_row, uint32_t rows, bool as_gemm, float* y);
  void FloatGemv(const float* x, uint32_t rows, float* y);

  std::shared_ptr<LinearContext> context_;
  std::vector<TensorView> parts_;
  uint32_t outputs_ = 0;
  bool gemm_ = false;
  bool integer_ = false;  // all parts can be multiplied in integers
  float largest_activation_ = 32767;
  std::vector<Piece> pieces_;
  std::unique_ptr<FloatGemm> packed_;  // nullptr: none
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_LINEAR_H_
