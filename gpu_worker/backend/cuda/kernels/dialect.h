// What kernels are written in: CUDA C++, or the same names from the emulator, so that the host runs the same code.
// Kernels use threadIdx.x, blockIdx.x and .y, blockDim.x, gridDim.x, __syncthreads, __syncwarp; __shfl_xor_sync,
// __shfl_sync, __ballot_sync and __any_sync with full masks; atomicAdd on words, __popc, __dmul_rn (a product that is
// never fused with a sum), and the names below; nothing else of CUDA. Shared memory is dynamic.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_DIALECT_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_DIALECT_H_

#include <cmath>
#include <cstdint>

#include "common/kv/bf16.h"
#include "gpu_worker/backend/cuda/kernels/tensor_words.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp8.h>
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

// Products on tensor cores (tensor_words.h), by a whole warp.
// Shared memory, rows aligned to 16 bytes; stride: elements.
HGA_DEVICE void LoadMatrices(uint32_t* x, const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}
HGA_DEVICE void LoadLeft(LeftWords* left, const bf16* from, uint32_t stride) {
  const uint32_t lane = threadIdx.x % 32;
  LoadMatrices(left->x, from + (lane % 16) * stride + lane / 16 * 8);
}
// from: a row for each column of the product.
HGA_DEVICE void LoadRight(RightWords* right, const bf16* from, uint32_t stride) {
  const uint32_t lane = threadIdx.x % 32;
  LoadMatrices(right->x, from + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
}
// from: a row for each of the inner dimension.
HGA_DEVICE void LoadRightTransposed(RightWords* right, const bf16* from, uint32_t stride) {
  const uint32_t lane = threadIdx.x % 32;
  const bf16* row = from + (lane % 16) * stride + lane / 16 * 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(right->x[0]), "=r"(right->x[1]), "=r"(right->x[2]), "=r"(right->x[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}
// sums += left * right's columns [8 * half, 8 * half + 8)
HGA_DEVICE void MultiplyWords(const LeftWords& left, const RightWords& right, uint32_t half, Sums4* sums) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(sums->x[0]), "+f"(sums->x[1]), "+f"(sums->x[2]), "+f"(sums->x[3])
               : "r"(left.x[0]), "r"(left.x[1]), "r"(left.x[2]), "r"(left.x[3]), "r"(right.x[2 * half]),
                 "r"(right.x[2 * half + 1]));
}

// Copies into shared memory that go on meanwhile: 16 bytes each, both sides aligned to them. There after
// WaitForCopies, for this thread; after a barrier then, for the block.
HGA_DEVICE void CopyLater(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from));
}
HGA_DEVICE void WaitForCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
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
// Both times 2^120.
HGA_DEVICE uint32_t ScaleBf16Pair(uint32_t pair) {
#if defined(__CUDACC__)
  uint32_t scaled;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(scaled) : "r"(pair), "r"(0x7b807b80u), "r"(0x80008000u));
  return scaled;
#else
  const float factor = 1.329227995784916e36f;
  const float low = Widen(bf16{static_cast<uint16_t>(pair)}), high = Widen(bf16{static_cast<uint16_t>(pair >> 16)});
  return static_cast<uint32_t>(Narrow(high * factor).bits) << 16 | Narrow(low * factor).bits;
#endif
}
// Two side by side, `low` in the lower bits.
HGA_DEVICE uint32_t NarrowPair(float low, float high) {
#if defined(__CUDACC__)
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return static_cast<uint32_t>(Narrow(high).bits) << 16 | Narrow(low).bits;
#endif
}
// FP8 E4M3 in the low byte: its exponent and mantissa are put where float has them, and the bias made up for.
HGA_DEVICE float WidenF8(uint32_t byte) {
  if ((byte & 0x7f) == 0x7f) return __uint_as_float(0x7fc00000u);
  const float magnitude = __uint_as_float((byte & 0x7f) << 20) * 1.329227995784916e36f;  // 2^120
  return (byte & 0x80) != 0 ? -magnitude : magnitude;
}

// Four FP8 E4M3 to bf16, two and two: their bits are put where bf16 has them, and the bias made up for. Exact; what is
// not a number becomes 480.
HGA_DEVICE void WidenF8Words(uint32_t bytes, uint32_t* low, uint32_t* high) {
  *low = (bytes & 0xff) << 8 | (bytes & 0xff00) << 16;
  *high = (bytes >> 16 & 0xff) << 8 | (bytes & 0xff000000u);
  HGA_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    uint32_t* pair = i == 0 ? low : high;
    *pair = ScaleBf16Pair((*pair & 0x80008000u) | (*pair >> 4 & 0x07f007f0u));
  }
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
using Bytes16 = Words<4>;
HGA_DEVICE float FloatAt(const Bytes16& bytes, uint32_t i) { return __uint_as_float(bytes.word[i]); }
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
