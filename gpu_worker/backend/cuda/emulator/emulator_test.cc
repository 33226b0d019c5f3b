#include "gpu_worker/backend/cuda/emulator/emulator.h"

#include <cstdint>
#include <numeric>
#include <vector>

#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

struct Args {
  std::vector<uint32_t>* out;
};
uint32_t* Out(const void* args) { return static_cast<const Args*>(args)->out->data(); }

void Reverse(const void* args) {
  auto* shared = reinterpret_cast<uint32_t*>(SharedMemory());
  shared[threadIdx.x] = threadIdx.x + 1000 * blockIdx.x + 100000 * blockIdx.y;
  __syncthreads();
  const uint32_t block = blockIdx.y * gridDim.x + blockIdx.x;
  Out(args)[block * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST(EmulatorTest, ThreadsMeetAtBarriersInAnyOrder) {
  for (const uint64_t seed : {0, 1, 2, 3, 77}) {
    std::vector<uint32_t> out(3 * 2 * 96);
    const Args args{&out};
    ASSERT_TRUE(emulator::RunGrid({3, 2, 96, 96 * 4}, seed, Reverse, &args).ok());
    for (uint32_t i = 0; i < out.size(); ++i) {
      EXPECT_EQ(out[i], 95 - i % 96 + i / 96 % 3 * 1000 + i / 288 * 100000) << "seed " << seed;
    }
  }
}

void Sums(const void* args) {
  auto* shared = reinterpret_cast<float*>(SharedMemory());
  const float warp = WarpSum(static_cast<float>(threadIdx.x));
  const float block = BlockSum(static_cast<float>(threadIdx.x), shared);
  const float from_lane_3 = __shfl_sync(kFullWarp, static_cast<float>(threadIdx.x), 3);
  Out(args)[threadIdx.x] = static_cast<uint32_t>(warp + 10000 * block + 1e8f * (from_lane_3 == Warp() * 32 + 3));
}

TEST(EmulatorTest, WarpsExchange) {
  for (const uint64_t seed : {0, 5, 6}) {
    std::vector<uint32_t> out(64);
    const Args args{&out};
    ASSERT_TRUE(emulator::RunGrid({1, 1, 64, 64}, seed, Sums, &args).ok());
    EXPECT_EQ(out[0], 496u + 20160000 + 100000000);
    EXPECT_EQ(out[63] / 10000, 12016u);
  }
}

void Votes(const void* args) {
  const uint32_t ballot = __ballot_sync(kFullWarp, threadIdx.x % 3 == 0);
  Out(args)[threadIdx.x] = ballot;
  Out(args)[blockDim.x + threadIdx.x] = __popc(ballot);
}

TEST(EmulatorTest, WarpsVote) {
  for (const uint64_t seed : {0, 5, 6}) {
    std::vector<uint32_t> out(128);
    const Args args{&out};
    ASSERT_TRUE(emulator::RunGrid({1, 1, 64, 0}, seed, Votes, &args).ok());
    EXPECT_EQ(out[7], 0x49249249u);
    EXPECT_EQ(out[40], 0x92492492u);
    EXPECT_EQ(out[64], 11u);
    EXPECT_EQ(out[127], 11u);
  }
}

// Thread 0 reads what the others write, without waiting for them.
void Race(const void* args) {
  auto* shared = reinterpret_cast<uint32_t*>(SharedMemory());
  shared[threadIdx.x] = 1;
  if (threadIdx.x == 0) Out(args)[0] = std::accumulate(shared, shared + blockDim.x, 0u);
}

TEST(EmulatorTest, MissingBarriersShow) {
  int wrong = 0;
  for (uint64_t seed = 1; seed < 20; ++seed) {
    std::vector<uint32_t> out(1);
    const Args args{&out};
    ASSERT_TRUE(emulator::RunGrid({1, 1, 64, 256}, seed, Race, &args).ok());
    wrong += out[0] != 64;
  }
  EXPECT_GT(wrong, 10);
}

void HalfWaits(const void*) {
  if (threadIdx.x < 32) __syncthreads();
}
void LanesPart(const void*) {
  if (threadIdx.x == 7) {
    __syncwarp();
  } else {
    WarpSum(1);
  }
}

TEST(EmulatorTest, BarriersThatNotAllReachAreErrors) {
  EXPECT_EQ(emulator::RunGrid({1, 1, 64, 0}, 0, HalfWaits, nullptr).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(emulator::RunGrid({1, 1, 32, 0}, 0, LanesPart, nullptr).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(emulator::RunGrid({1, 1, 33, 0}, 0, HalfWaits, nullptr).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(emulator::RunGrid({1, 1, 32, 0}, 0, HalfWaits, nullptr).ok());
}

TEST(DialectTest, EveryFp8NumberWidens) {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const uint32_t exponent = byte >> 3 & 15, mantissa = byte & 7;
    float expected =
        exponent == 0 ? mantissa / 512.0f : std::ldexp(1 + mantissa / 8.0f, static_cast<int>(exponent) - 7);
    if (byte & 0x80) expected = -expected;
    if ((byte & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(WidenF8(byte)));
    } else {
      EXPECT_EQ(WidenF8(byte), expected) << byte;
    }
  }
}

TEST(DialectTest, NarrowsAsTheHostDoes) {
  for (const float x : {0.0f, -0.0f, 1.0f, 1.00390625f, 1.01171875f, 3.4e38f, -1e-40f, INFINITY}) {
    EXPECT_EQ(Narrow(x).bits, ToBf16(x).bits) << x;
    EXPECT_EQ(Widen(Narrow(x)), ToFloat(ToBf16(x))) << x;
  }
}

}  // namespace
}  // namespace hga
