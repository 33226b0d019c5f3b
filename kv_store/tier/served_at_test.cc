#include "kv_store/tier/served_at.h"

#include <sys/stat.h>

#include <fstream>

#include "absl/strings/match.h"
#include "common/base/temporary_folder.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(ServedAtTest, SaysWhatWasWrittenLast) {
  const TemporaryFolder folder;
  EXPECT_TRUE(absl::IsNotFound(ReadServedAt(folder.path()).status()));
  ASSERT_TRUE(WriteServedAt(folder.path(), "unix:/run/some/longer.sock").ok());
  ASSERT_TRUE(WriteServedAt(folder.path(), "127.0.0.1:90").ok());
  EXPECT_EQ(*ReadServedAt(folder.path()), "127.0.0.1:90");
  struct stat file {};
  ASSERT_EQ(::stat((folder.path() + "/served_at").c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  RemoveServedAt(folder.path());
  EXPECT_TRUE(absl::IsNotFound(ReadServedAt(folder.path()).status()));
}

TEST(ServedAtTest, SocketsAreNamedFromTheRoot) {
  const TemporaryFolder folder;
  ASSERT_TRUE(WriteServedAt(folder.path(), "unix:run/s").ok());
  EXPECT_TRUE(absl::StartsWith(*ReadServedAt(folder.path()), "unix:/"));
  EXPECT_TRUE(absl::EndsWith(*ReadServedAt(folder.path()), "/run/s"));
}

TEST(ServedAtTest, HalfALineSaysNothing) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() + "/served_at") << "unix:/run/s";
  EXPECT_FALSE(ReadServedAt(folder.path()).ok());
  EXPECT_FALSE(WriteServedAt(folder.path() + "/nowhere", "unix:/s").ok());
}

}  // namespace
}  // namespace hga
