// The device that a test runs on: simulated, or the machine's, in the same test built a second time with
// HGA_TEST_ON_GPU.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_TESTING_DEVICE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_TESTING_DEVICE_H_

#include <memory>
#include <string>

#include "gpu_worker/backend/cuda/simulated_device.h"
#ifdef HGA_TEST_ON_GPU
#include "gpu_worker/backend/cuda/nvidia_device.h"
#endif
#include "gtest/gtest.h"

namespace hga {

#ifdef HGA_TEST_ON_GPU
inline constexpr bool kOnGpu = true;
// Why there is no device to test on; empty: there is one.
inline std::string WhyNoTestDevice() { return std::string(OpenNvidiaDevice().status().message()); }
inline std::unique_ptr<Device> MakeTestDevice(const SimulatedDeviceOptions&) {
  auto device = OpenNvidiaDevice();
  EXPECT_TRUE(device.ok()) << device.status();
  return *std::move(device);
}
#else
inline constexpr bool kOnGpu = false;
inline std::string WhyNoTestDevice() { return {}; }
inline std::unique_ptr<Device> MakeTestDevice(const SimulatedDeviceOptions& options) {
  return std::make_unique<SimulatedDevice>(options);
}
#endif

}  // namespace hga

// First in a test, or in SetUp.
#define HGA_SKIP_WITHOUT_DEVICE()                                                    \
  if (const std::string why = hga::WhyNoTestDevice(); !why.empty()) GTEST_SKIP() << why

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_TESTING_DEVICE_H_
