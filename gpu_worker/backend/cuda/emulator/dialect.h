// CUDA's names, as far as the kernels use them, on the emulator. Included by kernels/dialect.h only.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_DIALECT_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_DIALECT_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/kv/bf16.h"
#include "gpu_worker/backend/cuda/emulator/emulator.h"
#include "gpu_worker/backend/cuda/kernels/tensor_words.h"

#define threadIdx (::hga::emulator::Here().thread)
#define blockIdx (::hga::emulator::Here().block)
#define blockDim (::hga::emulator::Here().block_size)
#define gridDim (::hga::emulator::Here().grid_size)

inline void __syncthreads() { hga::emulator::SyncBlock(); }
inline void __syncwarp() { hga::emulator::SyncWarp(); }
template <typename T>
T __shfl_xor_sync(uint32_t, T value, uint32_t lanes) {
  return hga::emulator::Shuffle(value, threadIdx.x ^ lanes);
}
template <typename T>
T __shfl_sync(uint32_t, T value, uint32_t lane) {
  return hga::emulator::Shuffle(value, lane);
}
inline uint32_t __ballot_sync(uint32_t, bool vote) { return hga::emulator::Ballot(vote); }
inline uint32_t __popc(uint32_t bits) { return static_cast<uint32_t>(__builtin_popcount(bits)); }
inline int __any_sync(uint32_t, int here) { return hga::emulator::Ballot(here != 0) != 0; }
// Fibers do not interrupt each other.
inline uint32_t atomicAdd(uint32_t* word, uint32_t more) {
  const uint32_t before = *word;
  *word += more;
  return before;
}
inline double __dmul_rn(double x, double y) { return x * y; }
inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

namespace hga {

inline unsigned char* SharedMemory() { return emulator::Shared(); }

// Products on tensor cores.
inline uint32_t PairAt(const bf16* first, const bf16* second) {
  return static_cast<uint32_t>(second->bits) << 16 | first->bits;
}
inline void LoadLeft(LeftWords* left, const bf16* from, uint32_t stride) {
  emulator::CheckRows(from, stride);
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = 0; i < 4; ++i) {
    const bf16* at = from + (lane / 4 + i % 2 * 8) * stride + lane % 4 * 2 + i / 2 * 8;
    left->x[i] = PairAt(at, at + 1);
  }
}
inline void LoadRight(RightWords* right, const bf16* from, uint32_t stride) {
  emulator::CheckRows(from, stride);
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = 0; i < 4; ++i) {
    const bf16* at = from + (lane / 4 + i / 2 * 8) * stride + lane % 4 * 2 + i % 2 * 8;
    right->x[i] = PairAt(at, at + 1);
  }
}
inline void LoadRightTransposed(RightWords* right, const bf16* from, uint32_t stride) {
  emulator::CheckRows(from, stride);
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t i = 0; i < 4; ++i) {
    const bf16* at = from + (lane % 4 * 2 + i % 2 * 8) * stride + lane / 4 + i / 2 * 8;
    right->x[i] = PairAt(at, at + stride);
  }
}
inline void MultiplyWords(const LeftWords& left, const RightWords& right, uint32_t half, Sums4* sums) {
  emulator::Multiply(left.x, right.x + 2 * half, sums->x);
}

inline void CopyLater(void* to, const void* from) { emulator::CopyLater(to, from); }
inline void WaitForCopies() { emulator::WaitForCopies(); }

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_DIALECT_H_
