// CUDA's names, as far as the kernels use them, on the emulator. Included by kernels/dialect.h only.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_DIALECT_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_DIALECT_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/kv/bf16.h"
#include "gpu_worker/backend/cuda/emulator/emulator.h"

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
inline int __any_sync(uint32_t, int here) {
  int any = here != 0;
  for (uint32_t lanes = 16; lanes > 0; lanes /= 2) any |= hga::emulator::Shuffle(any, threadIdx.x ^ lanes);
  return any;
}
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

// Tiles of tensor cores: lane 0 has the whole of it and does the work, so that a missing __syncwarp before a load or
// after a store shows.
struct TileOf16 {
  float at[16][16];  // [row][column]
};
struct TileA : TileOf16 {};
struct TileBt : TileOf16 {};
struct TileB : TileOf16 {};
struct TileC : TileOf16 {};

// True in lane 0. Ends the program where a device would fault or read something else.
bool LeadsTile(const void* memory, uint32_t stride, uint32_t element_bytes);

inline void LoadTile(TileA* tile, const bf16* from, uint32_t stride) {
  if (!LeadsTile(from, stride, sizeof(bf16))) return;
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 16; ++c) tile->at[r][c] = ToFloat(from[r * stride + c]);
  }
}
inline void LoadTile(TileB* tile, const bf16* from, uint32_t stride) {
  if (!LeadsTile(from, stride, sizeof(bf16))) return;
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 16; ++c) tile->at[r][c] = ToFloat(from[r * stride + c]);
  }
}
inline void LoadTile(TileBt* tile, const bf16* from, uint32_t stride) {
  if (!LeadsTile(from, stride, sizeof(bf16))) return;
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 16; ++c) tile->at[r][c] = ToFloat(from[c * stride + r]);
  }
}
inline void LoadTile(TileC* tile, const float* from, uint32_t stride) {
  if (!LeadsTile(from, stride, sizeof(float))) return;
  for (int r = 0; r < 16; ++r) std::memcpy(tile->at[r], from + r * stride, sizeof(tile->at[r]));
}
inline void StoreTile(float* to, const TileC& tile, uint32_t stride) {
  if (!LeadsTile(to, stride, sizeof(float))) return;
  for (int r = 0; r < 16; ++r) std::memcpy(to + r * stride, tile.at[r], sizeof(tile.at[r]));
}
inline void ClearTile(TileC* tile) { std::memset(tile, 0, sizeof(*tile)); }
inline void MultiplyTiles(const TileA& a, const TileOf16& b, TileC* c) {
  if (emulator::Here().thread.x % 32 != 0) return;
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < 16; ++k) {
      const float x = a.at[r][k];
      for (int n = 0; n < 16; ++n) c->at[r][n] += x * b.at[k][n];
    }
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_DIALECT_H_
