// Runs a CUDA kernel's code on the host: each thread of a block is a fiber, blocks run one after another. Finds what
// compiles and yet is wrong on a device: barriers that not all threads reach, warps whose lanes part, and (by running
// threads in different orders) missing barriers. x86-64 only.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_EMULATOR_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_EMULATOR_H_

#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "gpu_worker/backend/cuda/kernels/kernel_list.h"

namespace hga {
namespace emulator {

struct Dim {
  uint32_t x = 0, y = 0;
};

// Runs body(args) for each thread. seed: 0: threads and blocks in ascending order; else in an order drawn from it, anew
// between any two barriers. INTERNAL: threads wait for each other for ever, or wait at different barriers.
absl::Status RunGrid(const LaunchShape& shape, uint64_t seed, void (*body)(const void*), const void* args);

// --- For kernels: of the thread that runs ---
struct Place {
  Dim thread, block, block_size, grid_size;
};
const Place& Here();
unsigned char* Shared();
void SyncBlock();
void SyncWarp();
// Each lane gives `bits` and gets those of all 32, until the next exchange.
const uint64_t* Exchange(uint64_t bits);
// Bit i: lane i's vote.
uint32_t Ballot(bool vote);

// The whole warp's product of 16 x 8 over 16, in words of two bf16 as tensor cores have them: sums += left * right.
void Multiply(const uint32_t left[4], const uint32_t right[2], float sums[4]);
// Ends the program where ldmatrix would fault.
void CheckRows(const void* memory, uint32_t stride);
// 16 bytes, copied as late as may be: when this thread waits for its copies.
void CopyLater(void* to, const void* from);
void WaitForCopies();

template <typename T>
T Shuffle(T value, uint32_t from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = Exchange(bits)[from % 32];
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator
}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_EMULATOR_EMULATOR_H_
