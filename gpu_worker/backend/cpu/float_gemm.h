// GEMM on an unpacked copy of the weights by oneDNN: in bf16 where the CPU multiplies it, else in f32.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_FLOAT_GEMM_H_
#define HGA_GPU_WORKER_BACKEND_CPU_FLOAT_GEMM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// oneDNN's engine, stream and primitives, shared by all layers of a backend. Step thread only.
class GemmContext;
// nullptr: oneDNN has no engine for this CPU.
std::shared_ptr<GemmContext> NewGemmContext();
// Whether oneDNN multiplies bf16 on this CPU; elsewhere it imitates it slowly (AVX-512) or cannot (AVX2).
bool MultipliesBf16(const GemmContext& context);

// Rows of one call. Batches begin at a chunk's first token, so a token has the same place in its tile however the
// prompt was cut into batches, and so the same bits.
inline constexpr uint32_t kGemmRows = 64;

// One or several matrices over the same input, outputs side by side. Step thread only; parallel inside.
class FloatGemm {
 public:
  // `parts` have equal cols.
  static absl::StatusOr<std::unique_ptr<FloatGemm>> Create(std::shared_ptr<GemmContext> context,
                                                           const std::vector<TensorView>& parts);
  ~FloatGemm();

  // x: [rows][cols], y: [rows][outputs]; rows at most kGemmRows.
  absl::Status Apply(const float* x, uint32_t rows, float* y);
  size_t packed_bytes() const;

 private:
  struct State;
  explicit FloatGemm(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_FLOAT_GEMM_H_
