#include "common/shm/mapped_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"

namespace hga {
namespace {

class MappedFileTest : public testing::Test {
 protected:
  MappedFileTest() {
    char folder[] = "/tmp/hga.XXXXXX";
    folder_ = mkdtemp(folder);
    path_ = folder_ + "/file";
  }
  ~MappedFileTest() override { std::filesystem::remove_all(folder_); }

  std::string folder_, path_;
};

TEST_F(MappedFileTest, IsStoppedWhileItIsMade) {
  constexpr size_t kBytes = size_t{4} << 30;
  int asked = 0;
  const auto made = MappedFile::Create(path_, kBytes, [&](size_t done) {
    EXPECT_LT(done, kBytes);
    return ++asked < 2;
  });
  EXPECT_EQ(made.status().code(), absl::StatusCode::kCancelled) << made.status();
  EXPECT_EQ(asked, 2);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(MappedFileTest, TellsHowFarItIs) {
  size_t last = 0;
  const auto made = MappedFile::Create(path_, 3 * kHugePage + 4096, [&](size_t done) {
    last = done;
    return true;
  });
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(last, 3 * kHugePage + 4096);
}

TEST_F(MappedFileTest, BothSidesSeeTheSameBytes) {
  auto made = MappedFile::Create(path_, 8192);
  ASSERT_TRUE(made.ok()) << made.status();
  auto opened = MappedFile::Open(path_, 8192);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->size(), 8192u);
  EXPECT_EQ(made->data()[8191], 0);
  made->data()[8191] = 7;
  EXPECT_EQ(opened->data()[8191], 7);
  struct stat info;
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(MappedFileTest, ANewFileLeavesOldMappingsAlone) {
  auto old = MappedFile::Create(path_, 4096);
  ASSERT_TRUE(old.ok());
  old->data()[0] = 1;
  auto fresh = MappedFile::Create(path_, 4096);
  ASSERT_TRUE(fresh.ok());
  EXPECT_EQ(fresh->data()[0], 0);
  EXPECT_EQ(old->data()[0], 1);
  MappedFile moved = *std::move(old);
  EXPECT_EQ(moved.data()[0], 1);
}

TEST_F(MappedFileTest, RefusesWhatIsNotSafeToMap) {
  EXPECT_EQ(MappedFile::Open(path_, 1).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(MappedFile::Create(path_, 4096).ok());
  EXPECT_EQ(MappedFile::Open(path_, 4097).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(chmod(path_.c_str(), 0666), 0);
  EXPECT_EQ(MappedFile::Open(path_, 4096).status().code(), absl::StatusCode::kFailedPrecondition);
  std::filesystem::create_symlink(path_, folder_ + "/link");
  EXPECT_FALSE(MappedFile::Open(folder_ + "/link", 1).ok());
}

TEST_F(MappedFileTest, NoRoomIsSaidAndNothingStays) {
  EXPECT_EQ(MappedFile::Create(path_, size_t{1} << 62).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

}  // namespace
}  // namespace hga
