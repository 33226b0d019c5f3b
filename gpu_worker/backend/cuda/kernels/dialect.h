// What kernels are written in: CUDA C++, or the same names from the emulator, so that the host runs the same code.
// Kernels use threadIdx.x, blockIdx.x and .y, blockDim.x, gridDim.x, __syncthreads, __syncwarp, __shfl_xor_sync,
// __shfl_sync and __any_sync with full masks, atomicAdd on words of shared memory, __dmul_rn (a product that is never
// fused with a sum), and the names below; nothing else of CUDA. Shared memory is dynamic.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_DIALECT_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_DIALECT_H_

#include <cmath>
#include <cstdint>

#include "common/kv/bf16.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <mma.h>
#define HGA_DEVICE __device__ __forceinline__
#define HGA_UNROLL _Pragma("unroll")
// Not wholly: the compiler would load everything ahead and run out of registers.
#define HGA_UNROLL_SOME _Pragma("unroll 4")
#else
#include "gpu_worker/backend/cuda/emulator/dialect.h"
#define HGA_DEVICE inline
#define HGA_UNROLL
#define HGA_UNROLL_SOME
#endif

namespace hga {

#if defined(__CUDACC__)
HGA_DEVICE unsigned char* SharedMemory() {
  extern __shared__ __align__(128) unsigned char shared_memory[];
  return shared_memory;
}

// Products of 16 x 16 tiles on tensor cores, by a whole warp. A: row-major, B: column-major, so that B's columns are
// rows of weights or keys; or row-major, for values.
using TileA = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __nv_bfloat16, nvcuda::wmma::row_major>;
using TileBt = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, __nv_bfloat16, nvcuda::wmma::col_major>;
using TileB = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, __nv_bfloat16, nvcuda::wmma::row_major>;
using TileC = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float>;

// from: aligned to 32 bytes; stride: elements, a multiple of 8.
template <typename Tile>
HGA_DEVICE void LoadTile(Tile* tile, const bf16* from, uint32_t stride) {
  nvcuda::wmma::load_matrix_sync(*tile, reinterpret_cast<const __nv_bfloat16*>(from), stride);
}
// stride: a multiple of 4.
HGA_DEVICE void LoadTile(TileC* tile, const float* from, uint32_t stride) {
  nvcuda::wmma::load_matrix_sync(*tile, from, stride, nvcuda::wmma::mem_row_major);
}
HGA_DEVICE void StoreTile(float* to, const TileC& tile, uint32_t stride) {
  nvcuda::wmma::store_matrix_sync(to, tile, stride, nvcuda::wmma::mem_row_major);
}
HGA_DEVICE void ClearTile(TileC* tile) { nvcuda::wmma::fill_fragment(*tile, 0.0f); }
// c += a b
template <typename Right>
HGA_DEVICE void MultiplyTiles(const TileA& a, const Right& b, TileC* c) {
  nvcuda::wmma::mma_sync(*c, a, b, *c);
}
#endif

// The same pointer, which the compiler may take to be of device or mapped memory: it forgets where a pointer points to
// that has been in shared memory.
template <typename T>
HGA_DEVICE const T* InGlobal(const T* pointer) {
#if defined(__CUDACC__)
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

inline constexpr uint32_t kWarp = 32;
inline constexpr uint32_t kFullWarp = 0xffffffffu;

HGA_DEVICE uint32_t Lane() { return threadIdx.x % kWarp; }
HGA_DEVICE uint32_t Warp() { return threadIdx.x / kWarp; }
HGA_DEVICE uint32_t Least(uint32_t a, uint32_t b) { return a < b ? a : b; }

HGA_DEVICE float Widen(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
// As ToBf16.
HGA_DEVICE bf16 Narrow(float f) {
  const uint32_t wide = __float_as_uint(f);
  if ((wide & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((wide >> 16) | 0x40)};
  return bf16{static_cast<uint16_t>((wide + 0x7fffu + ((wide >> 16) & 1)) >> 16)};
}
// FP8 E4M3 in the low byte: its exponent and mantissa are put where float has them, and the bias made up for.
HGA_DEVICE float WidenF8(uint32_t byte) {
  if ((byte & 0x7f) == 0x7f) return __uint_as_float(0x7fc00000u);
  const float magnitude = __uint_as_float((byte & 0x7f) << 20) * 1.329227995784916e36f;  // 2^120
  return (byte & 0x80) != 0 ? -magnitude : magnitude;
}

// To FP8 E4M3, the nearest, of two the even one; beyond the largest: that. Not for what is not a number.
HGA_DEVICE uint8_t NarrowF8(float f) {
  const uint32_t bits = __float_as_uint(f), sign = bits >> 24 & 0x80;
  const float magnitude = fabsf(f);
  if (magnitude < 0.015625f) {  // below the smallest normal: in steps of 2^-9
    return static_cast<uint8_t>(sign | static_cast<uint32_t>(rintf(magnitude * 512)));
  }
  if (!(magnitude < 448)) return static_cast<uint8_t>(sign | 0x7e);
  const uint32_t rounded = (bits & 0x7fffffffu) + 0x7ffffu + (bits >> 20 & 1);
  return static_cast<uint8_t>(sign | Least((rounded >> 20) - (120u << 3), 0x7e));
}

// Some words or floats, a power of two, in one access or, beyond four, in accesses of sixteen bytes.
template <uint32_t kCount>
struct alignas(kCount < 4 ? 4 * kCount : 16) Words {
  uint32_t word[kCount];
};
template <uint32_t kCount>
struct alignas(kCount < 4 ? 4 * kCount : 16) Floats {
  float at[kCount];
};
// Element i of two bf16 for each word.
template <uint32_t kCount>
HGA_DEVICE float Bf16At(const Words<kCount>& words, uint32_t i) {
  const uint32_t word = words.word[i / 2];
  return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
}
// Sixteen bytes in one access.
struct alignas(16) Bytes16 {
  uint32_t word[4];
};
// Element i of eight bf16.
HGA_DEVICE float Bf16At(const Bytes16& bytes, uint32_t i) {
  const uint32_t word = bytes.word[i / 2];
  return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
}
// Four FP8, the first in the lowest byte: the same floats as by WidenF8, by an instruction that newer devices have.
HGA_DEVICE Floats<4> WidenF8s(uint32_t word) {
  Floats<4> four;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  HGA_UNROLL
  for (uint32_t i = 0; i < 4; i += 2) {
    const auto pair = static_cast<__nv_fp8x2_storage_t>(word >> (8 * i));
    const float2 wide = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3)));
    four.at[i] = wide.x;
    four.at[i + 1] = wide.y;
  }
#else
  HGA_UNROLL
  for (uint32_t i = 0; i < 4; ++i) four.at[i] = WidenF8(word >> (8 * i) & 0xff);
#endif
  return four;
}
// Element i of sixteen FP8.
HGA_DEVICE float F8At(const Bytes16& bytes, uint32_t i) { return WidenF8(bytes.word[i / 4] >> (i % 4 * 8) & 0xff); }

HGA_DEVICE float WarpSum(float x) {
  HGA_UNROLL
  for (uint32_t step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}
HGA_DEVICE float WarpMax(float x) {
  HGA_UNROLL
  for (uint32_t step = kWarp / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, step));
  return x;
}
// The sums of kCount values, each over all of a group of kLanes lanes. Each step halves the values that a lane still
// adds up, so that it takes fewer exchanges than one sum after the other. A lane is left with the sum of value
// IndexOfSum.
template <uint32_t kCount, uint32_t kLanes>
HGA_DEVICE uint32_t IndexOfSum() {
  return Lane() % kLanes / (kLanes / kCount);
}
template <uint32_t kCount, uint32_t kLanes>
HGA_DEVICE float SumApart(float* values) {
  constexpr uint32_t kLeft = kCount > 1 ? kCount / 2 : 1, kStep = kLanes / 2;
  const bool upper = (Lane() & kStep) != 0;
  HGA_UNROLL
  for (uint32_t i = 0; i < kLeft; ++i) {
    const uint32_t other = kCount > 1 ? i + kLeft : i;
    const float keep = upper ? values[other] : values[i], give = upper ? values[i] : values[other];
    values[i] = keep + __shfl_xor_sync(kFullWarp, give, kStep);
  }
  if constexpr (kStep > 1) return SumApart<kLeft, kStep>(values);
  return values[0];
}
// Over the block, the same bits in every thread. shared: one float for each warp.
HGA_DEVICE float BlockSum(float x, float* shared) {
  x = WarpSum(x);
  __syncthreads();
  if (Lane() == 0) shared[Warp()] = x;
  __syncthreads();
  float sum = 0;
  for (uint32_t w = 0; w < blockDim.x / kWarp; ++w) sum += shared[w];
  return sum;
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_DIALECT_H_
