#include "client/doctor/disk_speed.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "common/base/temporary_folder.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint64_t kBytes = 4 << 20;

class DiskSpeedTest : public testing::Test {
 protected:
  const TemporaryFolder temporary_;
  const std::string folder_ = temporary_.path();
};

TEST_F(DiskSpeedTest, MeasuresAndLeavesNothing) {
  const DiskFacts facts = MeasureDisk(folder_, kBytes);
  EXPECT_EQ(facts.error, "");
  EXPECT_EQ(facts.folder, folder_);
  EXPECT_GT(facts.free_bytes, kBytes);
  EXPECT_GT(facts.write_mb_per_s, 0);
  EXPECT_GT(facts.read_mb_per_s, 0);
  EXPECT_GT(facts.random_read_us, 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(DiskSpeedTest, AFolderThatIsNotThereYetIsMeasuredWhereItWillBe) {
  EXPECT_EQ(MeasureDisk(folder_ + "/a/b", kBytes).folder, folder_);
}

TEST_F(DiskSpeedTest, WhatCannotBeWrittenIsSaid) {
  // Not even root may make files in it.
  const DiskFacts facts = MeasureDisk("/proc/self", kBytes);
  EXPECT_NE(facts.error.find("/proc/self"), std::string::npos) << facts.error;
  EXPECT_EQ(facts.write_mb_per_s, 0);
}

TEST_F(DiskSpeedTest, WhereThereAreNoDirectReadsThePageCacheIsUsed) {
  // /dev/shm is a tmpfs: whether it takes O_DIRECT depends on the kernel; it is measured either way.
  const DiskFacts facts = MeasureDisk("/dev/shm", kBytes);
  EXPECT_EQ(facts.error, "");
  EXPECT_GT(facts.read_mb_per_s, 0);
}

}  // namespace
}  // namespace hga
