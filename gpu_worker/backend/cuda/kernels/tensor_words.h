// What a lane holds of a product on tensor cores of 16 rows x 8 columns over 16 of the inner dimension (m16n8k16 of
// PTX), in words of two bf16.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_TENSOR_WORDS_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_TENSOR_WORDS_H_

#include <cstdint>

namespace hga {

// 16 rows of 16.
struct LeftWords {
  uint32_t x[4];
};
// Of 16 columns, two products side by side: x[0], x[1] for the first eight of them.
struct RightWords {
  uint32_t x[4];
};
// Of rows l / 4 (x[0], x[1]) and l / 4 + 8 (x[2], x[3]) of lane l, columns 2 * (l % 4) and the next.
struct Sums4 {
  float x[4];
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_TENSOR_WORDS_H_
