#include "kv_store/arena/arena.h"

#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "gtest/gtest.h"

namespace hga {
namespace {

class ArenaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/hga.XXXXXX";
    ASSERT_NE(::mkdtemp(dir), nullptr);
    dir_ = dir;
    path_ = dir_ + "/arena";
  }
  void TearDown() override {
    ::unlink(path_.c_str());
    ::rmdir(dir_.c_str());
  }

  void Overwrite(size_t offset, uint64_t value, size_t bytes) {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(offset);
    file.write(reinterpret_cast<const char*>(&value), bytes);
  }

  std::string dir_, path_;
  const ArenaShape shape_{/*generation=*/77, /*slot_bytes=*/8192, /*slot_count=*/5};
};

TEST_F(ArenaTest, ClientSeesWhatTheServerWrote) {
  auto server = Arena::Create(path_, shape_);
  ASSERT_TRUE(server.ok()) << server.status();
  auto client = Arena::Open(path_, shape_);
  ASSERT_TRUE(client.ok()) << client.status();
  server->Slot(4)[8191] = 42;
  EXPECT_EQ(client->Slot(4)[8191], 42);
  EXPECT_EQ(client->Slot(5), nullptr);
  EXPECT_EQ(client->Slot(~0u), nullptr);
}

TEST_F(ArenaTest, RefusesEveryHeaderFieldThatIsOff) {
  const size_t offsets[] = {0, 8, 12, 16, 24};
  for (size_t offset : offsets) {
    auto server = Arena::Create(path_, shape_);
    ASSERT_TRUE(server.ok()) << server.status();
    Overwrite(offset, 0xfffffff1, 4);
    const auto client = Arena::Open(path_, shape_);
    EXPECT_EQ(client.status().code(), absl::StatusCode::kFailedPrecondition) << "offset " << offset;
  }
}

TEST_F(ArenaTest, RefusesTruncatedFile) {
  auto server = Arena::Create(path_, shape_);
  ASSERT_TRUE(server.ok());
  ASSERT_EQ(::truncate(path_.c_str(), kSlotsOffset + 8192), 0);
  EXPECT_EQ(Arena::Open(path_, shape_).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(::truncate(path_.c_str(), 10), 0);
  EXPECT_EQ(Arena::Open(path_, shape_).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ArenaTest, RefusesAbsurdShapes) {
  EXPECT_FALSE(ValidateShape({1, 0, 1}).ok());
  EXPECT_FALSE(ValidateShape({1, 4097, 1}).ok());
  EXPECT_FALSE(ValidateShape({1, kMaxSlotBytes * 2, 1}).ok());
  EXPECT_FALSE(ValidateShape({1, 4096, 0}).ok());
  EXPECT_FALSE(ValidateShape({1, 4096, ~0u}).ok());
  EXPECT_TRUE(ValidateShape({1, 4096, 1}).ok());
}

TEST_F(ArenaTest, ServedArenaIsNotReplacedAndADeadOneIs) {
  {
    auto server = Arena::Create(path_, shape_);
    ASSERT_TRUE(server.ok());
    EXPECT_EQ(Arena::Create(path_, shape_).status().code(), absl::StatusCode::kAlreadyExists);
  }
  EXPECT_TRUE(Arena::Create(path_, shape_).ok());
}

TEST_F(ArenaTest, LockByteLastsAsLongAsTheMapping) {
  auto server = Arena::Create(path_, shape_);
  ASSERT_TRUE(server.ok());
  {
    auto client = Arena::Open(path_, shape_);
    ASSERT_TRUE(client.ok());
    ASSERT_TRUE(client->LockByte(kLockBytesOffset + 3).ok());
    EXPECT_TRUE(server->LockedByOther(kLockBytesOffset + 3));
    EXPECT_FALSE(server->LockedByOther(kLockBytesOffset + 4));
    auto second = Arena::Open(path_, shape_);
    ASSERT_TRUE(second.ok());
    EXPECT_FALSE(second->LockByte(kLockBytesOffset + 3).ok());
  }
  EXPECT_FALSE(server->LockedByOther(kLockBytesOffset + 3));
}

}  // namespace
}  // namespace hga
