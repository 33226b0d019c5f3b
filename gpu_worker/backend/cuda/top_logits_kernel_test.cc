// The kernel alone, over vocabularies of several slices, in any order of threads.
#include <cmath>
#include <cstring>
#include <random>

#include "gpu_worker/backend/cuda/device_memory.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"
#include "gpu_worker/backend/cuda/testing_device.h"
#include "gpu_worker/backend/top_logits.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

class TopLogitsKernelTest : public testing::Test {
 protected:
  void SetUp() override { HGA_SKIP_WITHOUT_DEVICE(); }

  // The best of each row by slices of slices, as CudaBackend launches it.
  std::vector<TokenLogit> Pick(const std::vector<float>& logits, uint32_t rows, uint32_t keep, uint64_t seed) {
    SimulatedDeviceOptions options;
    options.seed = seed;
    const auto device = MakeTestDevice(options);
    const size_t bytes = logits.size() * sizeof(TokenLogit);
    PinnedBuffer host = *PinnedBuffer::Allocate(device.get(), bytes);
    std::memcpy(host.as(), logits.data(), logits.size() * sizeof(float));
    auto* in = static_cast<float*>(*device->Allocate(bytes));
    TokenLogit* turns[2];
    for (TokenLogit*& turn : turns) turn = static_cast<TokenLogit*>(*device->Allocate(bytes * kMaxTopLogits));
    EXPECT_TRUE(device->CopyToDevice(DeviceStream::kCompute, in, host.as(), logits.size() * sizeof(float)).ok());
    TopLogitsArgs args{in, nullptr, turns[0], static_cast<uint32_t>(logits.size() / rows), keep};
    for (int turn = 1;; ++turn) {
      const uint32_t slices = (args.count + kTopSlice - 1) / kTopSlice;
      EXPECT_TRUE(device->Launch(DeviceStream::kCompute, {slices, rows, kTopThreads, kTopSharedBytes}, args).ok());
      if (slices == 1) break;
      args = {nullptr, args.out, turns[turn % 2], slices * keep, keep};
    }
    EXPECT_TRUE(device->CopyToHost(DeviceStream::kCompute, host.as(), args.out, rows * keep * sizeof(TokenLogit)).ok());
    EXPECT_TRUE(device->Synchronize(DeviceStream::kCompute).ok());
    const auto* top = host.as<TokenLogit>();
    std::vector<TokenLogit> picked(top, top + rows * keep);
    for (void* memory : {static_cast<void*>(in), static_cast<void*>(turns[0]), static_cast<void*>(turns[1])}) {
      device->Free(memory);
    }
    return picked;
  }

  void ExpectTheBest(const std::vector<float>& logits, uint32_t rows, uint32_t keep, uint64_t seed) {
    const std::vector<TokenLogit> picked = Pick(logits, rows, keep, seed);
    std::vector<TokenLogit> expected;
    const size_t vocab = logits.size() / rows;
    for (uint32_t r = 0; r < rows; ++r) {
      AppendTopLogits(absl::MakeConstSpan(logits).subspan(r * vocab, vocab), keep, &expected);
    }
    ASSERT_EQ(picked.size(), expected.size());
    for (size_t i = 0; i < picked.size(); ++i) EXPECT_EQ(picked[i].id, expected[i].id) << i;
  }
};

TEST_F(TopLogitsKernelTest, AnyVocabulary) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const uint32_t vocab : {kMaxTopLogits, 1000u, kTopSlice, kTopSlice + 1, 3 * kTopSlice + 77, 40 * kTopSlice}) {
    const uint32_t rows = vocab > 4 * kTopSlice ? 1 : 3;
    std::vector<float> logits(rows * vocab);
    for (float& x : logits) x = std::round(normal(random) * 50);  // many equal ones
    ExpectTheBest(logits, rows, 1, vocab % 3);
    ExpectTheBest(logits, rows, vocab > 4 * kTopSlice ? 33 : kMaxTopLogits, vocab % 2);
  }
}

TEST_F(TopLogitsKernelTest, WhatIsNotFiniteComesFirst) {
  std::vector<float> logits(2 * kTopSlice + 5, 1.0f);
  logits[kTopSlice + 7] = -INFINITY;
  logits[kTopSlice + 9] = NAN;
  logits[5] = 9;
  ExpectTheBest(logits, 1, 4, 1);
}

}  // namespace
}  // namespace hga
