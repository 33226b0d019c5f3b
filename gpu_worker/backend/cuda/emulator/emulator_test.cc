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

// Left [16][16], right [16 columns][16], the same transposed: small whole numbers, so that sums are exact.
struct ProductArgs {
  const bf16 *left, *right, *transposed;
  float* out;  // [2][16][16]
};

void Products(const void* args) {
  const ProductArgs a = *static_cast<const ProductArgs*>(args);
  LeftWords left;
  LoadLeft(&left, a.left, 16);
  for (uint32_t kind = 0; kind < 2; ++kind) {
    RightWords right;
    if (kind == 0) {
      LoadRight(&right, a.right, 16);
    } else {
      LoadRightTransposed(&right, a.transposed, 16);
    }
    for (uint32_t half = 0; half < 2; ++half) {
      Sums4 sums = {{1, 1, 1, 1}};
      MultiplyWords(left, right, half, &sums);
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = Lane() / 4 + i / 2 * 8, column = half * 8 + Lane() % 4 * 2 + i % 2;
        a.out[(kind * 16 + row) * 16 + column] = sums.x[i];
      }
    }
  }
}

TEST(DialectTest, TensorCoresMultiply) {
  alignas(16) bf16 left[16][16], right[16][16], transposed[16][16];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      left[i][k] = ToBf16(static_cast<float>((i * 7 + k * 3) % 11 - 5));
      right[i][k] = transposed[k][i] = ToBf16(static_cast<float>((i * 5 + k * 2) % 13 - 6));
    }
  }
  for (const uint64_t seed : {0, 3}) {
    std::vector<float> out(2 * 16 * 16, -1);
    const ProductArgs args{left[0], right[0], transposed[0], out.data()};
    ASSERT_TRUE(emulator::RunGrid({1, 1, 32, 0}, seed, Products, &args).ok());
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 16; ++column) {
        float expected = 1;
        for (int k = 0; k < 16; ++k) expected += ToFloat(left[row][k]) * ToFloat(right[column][k]);
        EXPECT_EQ(out[row * 16 + column], expected) << row << " " << column;
        EXPECT_EQ(out[(16 + row) * 16 + column], expected) << row << " " << column;
      }
    }
  }
}

void CopiesLater(const void* args) {
  auto* shared = reinterpret_cast<uint32_t*>(SharedMemory());
  alignas(16) static const uint32_t from[4] = {1, 2, 3, 4};
  CopyLater(shared + 4 * threadIdx.x, from);
  Out(args)[2 * threadIdx.x] = shared[4 * threadIdx.x + 1];
  WaitForCopies();
  Out(args)[2 * threadIdx.x + 1] = shared[4 * threadIdx.x + 1];
}

TEST(DialectTest, CopiesAreThereOnceTheyAreWaitedFor) {
  std::vector<uint32_t> out(64);
  const Args args{&out};
  ASSERT_TRUE(emulator::RunGrid({1, 1, 32, 32 * 16}, 0, CopiesLater, &args).ok());
  EXPECT_NE(out[62], 2u);
  EXPECT_EQ(out[63], 2u);
}

TEST(DialectTest, FourFp8AreTwoPairsOfBf16) {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    if ((byte & 0x7f) == 0x7f) continue;
    uint32_t low = 0, high = 0;
    WidenF8Words(byte | 0x38 << 8 | byte << 16 | (byte ^ 0x80) << 24, &low, &high);
    EXPECT_EQ(Widen(bf16{static_cast<uint16_t>(low)}), WidenF8(byte)) << byte;
    EXPECT_EQ(Widen(bf16{static_cast<uint16_t>(low >> 16)}), 1.0f);
    EXPECT_EQ(Widen(bf16{static_cast<uint16_t>(high)}), WidenF8(byte));
    EXPECT_EQ(Widen(bf16{static_cast<uint16_t>(high >> 16)}), -WidenF8(byte));
  }
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
