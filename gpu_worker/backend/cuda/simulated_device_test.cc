#include "gpu_worker/backend/cuda/simulated_device.h"

#include <cstring>
#include <vector>

#include "gpu_worker/backend/cuda/device_memory.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kCount = 1000;

class SimulatedDeviceTest : public testing::Test {
 protected:
  void Make(bool early_copies) {
    SimulatedDeviceOptions options;
    options.early_copies = early_copies;
    host_ = PinnedBuffer();  // before the device that it came from
    device_ = std::make_unique<SimulatedDevice>(options);
    host_ = *PinnedBuffer::Allocate(device_.get(), kCount * 4);
    a_ = static_cast<float*>(*device_->Allocate(kCount * 4));
    b_ = static_cast<float*>(*device_->Allocate(kCount * 4));
    event_ = *device_->NewEvent();
  }
  void FillHost(float value) {
    for (uint32_t i = 0; i < kCount; ++i) host_.as<float>()[i] = value;
  }
  absl::Status Add() { return device_->Launch(DeviceStream::kCompute, {2, 1, 64, 0}, AddArgs{a_, b_, kCount}); }
  // a := 1, b := 2 on the copy stream, with an event behind it.
  void Fill() {
    FillHost(1);
    ASSERT_TRUE(device_->CopyToDevice(DeviceStream::kCopy, a_, host_.as(), kCount * 4).ok());
    ASSERT_TRUE(device_->Synchronize(DeviceStream::kCopy).ok());
    FillHost(2);
    ASSERT_TRUE(device_->CopyToDevice(DeviceStream::kCopy, b_, host_.as(), kCount * 4).ok());
    ASSERT_TRUE(device_->Record(event_, DeviceStream::kCopy).ok());
  }
  float ReadA() {
    EXPECT_TRUE(device_->Synchronize(DeviceStream::kCopy).ok());
    EXPECT_TRUE(device_->CopyToHost(DeviceStream::kCompute, host_.as(), a_, kCount * 4).ok());
    EXPECT_TRUE(device_->Synchronize(DeviceStream::kCompute).ok());
    return host_.as<float>()[kCount - 1];
  }

  std::unique_ptr<SimulatedDevice> device_;
  PinnedBuffer host_;
  float *a_ = nullptr, *b_ = nullptr;
  DeviceEvent event_;
};

TEST_F(SimulatedDeviceTest, StreamsAreOrderedByEvents) {
  for (const bool early : {false, true}) {
    Make(early);
    Fill();
    ASSERT_TRUE(device_->Wait(DeviceStream::kCompute, event_).ok());
    ASSERT_TRUE(Add().ok());
    ASSERT_TRUE(device_->Synchronize(DeviceStream::kCompute).ok());
    EXPECT_EQ(ReadA(), 3) << early;
  }
}

TEST_F(SimulatedDeviceTest, AMissingWaitShows) {
  Make(false);
  Fill();
  ASSERT_TRUE(Add().ok());
  ASSERT_TRUE(device_->Synchronize(DeviceStream::kCompute).ok());
  EXPECT_NE(ReadA(), 3);
}

TEST_F(SimulatedDeviceTest, HostMemoryThatChangesTooSoonShows) {
  Make(false);
  Fill();
  FillHost(7);
  ASSERT_TRUE(device_->Wait(DeviceStream::kCompute, event_).ok());
  ASSERT_TRUE(Add().ok());
  EXPECT_EQ(ReadA(), 8);
}

TEST_F(SimulatedDeviceTest, OverwritingWhatIsStillReadShows) {
  Make(true);
  Fill();
  ASSERT_TRUE(device_->Wait(DeviceStream::kCompute, event_).ok());
  ASSERT_TRUE(Add().ok());
  FillHost(5);
  ASSERT_TRUE(device_->CopyToDevice(DeviceStream::kCopy, b_, host_.as(), kCount * 4).ok());  // does not wait for Add
  EXPECT_NE(ReadA(), 3);
}

TEST_F(SimulatedDeviceTest, AGraphIsDoneEachTimeItIsLaunched) {
  Make(false);
  Fill();
  ASSERT_TRUE(device_->Wait(DeviceStream::kCompute, event_).ok());
  ASSERT_TRUE(device_->BeginCapture(DeviceStream::kCompute).ok());
  ASSERT_TRUE(Add().ok());
  ASSERT_TRUE(Add().ok());
  EXPECT_EQ(device_->Record(event_, DeviceStream::kCompute).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(device_->Synchronize(DeviceStream::kCompute).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(device_->BeginCapture(DeviceStream::kCompute).code(), absl::StatusCode::kInternal);
  const auto graph = device_->EndCapture();
  ASSERT_TRUE(graph.ok());
  EXPECT_EQ(device_->EndCapture().status().code(), absl::StatusCode::kInternal);
  const float before = ReadA();  // nothing was added yet
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(device_->LaunchGraph(DeviceStream::kCompute, *graph).ok());
  ASSERT_TRUE(Add().ok());
  const float step = (ReadA() - before) / 7;
  EXPECT_NE(step, 0);
  EXPECT_EQ(ReadA(), before + 7 * step);
}

TEST_F(SimulatedDeviceTest, WrongAccessesAreErrors) {
  Make(false);
  std::vector<float> plain(kCount);
  EXPECT_EQ(device_->CopyToDevice(DeviceStream::kCopy, a_, plain.data(), 4).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(device_->CopyToDevice(DeviceStream::kCopy, plain.data(), host_.as(), 4).code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(device_->CopyToDevice(DeviceStream::kCopy, a_, host_.as(), 1 << 20).code(), absl::StatusCode::kInternal);
  ASSERT_TRUE(device_->Launch(DeviceStream::kCompute, {1, 1, 33, 0}, AddArgs{a_, b_, kCount}).ok());
  EXPECT_EQ(device_->Synchronize(DeviceStream::kCompute).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Add().code(), absl::StatusCode::kInternal);  // for good
}

TEST_F(SimulatedDeviceTest, HostMemoryIsMappedWhileItIsRegistered) {
  Make(false);
  std::vector<float> plain(kCount);
  EXPECT_EQ(device_->Mapped(plain.data(), 4), nullptr);
  ASSERT_TRUE(device_->RegisterHost(plain.data(), kCount * 4).ok());
  EXPECT_EQ(device_->Mapped(&plain[1], 4), &plain[1]);
  EXPECT_EQ(device_->Mapped(&plain[1], kCount * 4), nullptr);
  device_->UnregisterHost(plain.data());
  EXPECT_EQ(device_->Mapped(plain.data(), 4), nullptr);
}

TEST_F(SimulatedDeviceTest, TheHostCannotTouchDeviceMemory) {
  Make(false);
  EXPECT_DEATH(std::memset(a_, 0, 4), "");
}

}  // namespace
}  // namespace hga
