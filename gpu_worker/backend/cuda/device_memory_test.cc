#include "gpu_worker/backend/cuda/device_memory.h"

#include <utility>
#include <vector>

#include "gpu_worker/backend/cuda/simulated_device.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(DeviceMemoryTest, TheLimitIsKeptToTheByte) {
  SimulatedDevice device({});
  DeviceMemory memory(&device, 1024);
  auto a = memory.Allocate(DeviceUse::kWeights, 512);
  auto b = memory.Allocate(DeviceUse::kTier, 1);  // counts for 256
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(memory.used(), 768u);
  EXPECT_EQ(memory.used(DeviceUse::kWeights), 512u);
  EXPECT_EQ(memory.Allocate(DeviceUse::kWindow, 257).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(memory.Allocate(DeviceUse::kWindow, UINT64_MAX).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(memory.used(), 768u);
  auto c = memory.Allocate(DeviceUse::kWindow, 256);
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(memory.used(), 1024u);
  EXPECT_EQ(device.peak_bytes(), 1024u);
  EXPECT_FALSE(memory.Allocate(DeviceUse::kWindow, 1).ok());
  b->Reset();
  EXPECT_EQ(memory.used(DeviceUse::kTier), 0u);
  EXPECT_TRUE(memory.Allocate(DeviceUse::kWindow, 100).ok());
}

TEST(DeviceMemoryTest, ADeviceWithLessThanTheLimitSaysSo) {
  SimulatedDeviceOptions options;
  options.bytes = 4096;
  SimulatedDevice device(options);
  DeviceMemory memory(&device, 1 << 20);
  EXPECT_TRUE(memory.Allocate(DeviceUse::kWeights, 4096).ok());
  EXPECT_EQ(memory.Allocate(DeviceUse::kWeights, 4097).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(memory.used(), 0u);
}

TEST(DeviceMemoryTest, BuffersMove) {
  SimulatedDevice device({});
  DeviceMemory memory(&device, 4096);
  DeviceBuffer a = *memory.Allocate(DeviceUse::kWeights, 256), b = *memory.Allocate(DeviceUse::kTier, 512);
  a = std::move(b);
  EXPECT_EQ(memory.used(), 512u);
  EXPECT_EQ(a.bytes(), 512u);
  DeviceBuffer empty = *memory.Allocate(DeviceUse::kWeights, 0);
  EXPECT_EQ(empty.as(), nullptr);
}

}  // namespace
}  // namespace hga
