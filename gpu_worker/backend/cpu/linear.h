// y = W x for several rows x: GEMM on unpacked weights for prefill (bf16 where the CPU multiplies it, else f32), GEMV
// straight from the quantised weights for decode.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_LINEAR_H_
#define HGA_GPU_WORKER_BACKEND_CPU_LINEAR_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// oneDNN's engine, stream and primitives, shared by all layers of a backend. Step thread only.
class GemmContext;
std::shared_ptr<GemmContext> NewGemmContext();

// Rows of one GEMM call. Batches begin at a chunk's first token, so a token has the same place in its tile however
// the prompt was cut into batches, and so the same bits.
inline constexpr uint32_t kGemmRows = 64;
// Tiles with at most so many rows go through GEMV: decode, and the last tokens of a prompt.
inline constexpr uint32_t kGemvRowsMax = 8;

// One or several matrices over the same input, outputs side by side. Step thread only.
class Linear {
 public:
  Linear();
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  // `parts` have equal cols. pack: make the copy that GEMM needs; without it every row goes through GEMV.
  static absl::StatusOr<Linear> Create(std::shared_ptr<GemmContext> context, std::vector<TensorView> parts, bool pack);

  // x: [rows][cols], y: [rows][outputs]
  absl::Status Apply(const float* x, uint32_t rows, float* y);

  uint32_t cols() const;
  uint32_t outputs() const;
  size_t packed_bytes() const;

 private:
  struct State;
  void Gemv(const float* x, uint32_t rows, float* y) const;

  std::unique_ptr<State> state_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_LINEAR_H_
