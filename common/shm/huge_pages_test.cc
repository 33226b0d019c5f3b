#include "common/shm/huge_pages.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include "common/base/temporary_folder.h"
#include "common/shm/mapped_file.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// Whether the machine has huge pages to give is its business; the file must be there whole all the same.
TEST(HugePagesTest, ALargeFileIsAlignedAllocatedWholeAndZero) {
  const TemporaryFolder folder("/dev/shm");
  constexpr size_t kBytes = 3 * kHugePage + 4096;
  auto made = MappedFile::Create(folder.File("arena"), kBytes);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(made->data()) % kHugePage, 0u);
  struct stat info;
  ASSERT_EQ(::fstat(made->fd(), &info), 0);
  EXPECT_EQ(static_cast<size_t>(info.st_size), kBytes);
  EXPECT_GE(static_cast<size_t>(info.st_blocks) * 512, kBytes);
  for (size_t i = 0; i < kBytes; ++i) ASSERT_EQ(made->data()[i], 0) << i;
  made->data()[kBytes - 1] = 9;
  auto opened = MappedFile::Open(folder.File("arena"), kBytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->data()[kBytes - 1], 9);
}

TEST(HugePagesTest, CountsWholeHugePagesOnly) {
  const TemporaryFolder folder("/dev/shm");
  auto made = MappedFile::Create(folder.File("arena"), 2 * kHugePage + 4096);
  ASSERT_TRUE(made.ok()) << made.status();
  const auto go_on = [](size_t) { return true; };
  const size_t again = AllocateHugePages(made->fd(), made->data(), made->size(), go_on);
  EXPECT_TRUE(again == 0 || again == 2 * kHugePage) << again;
  EXPECT_EQ(AllocateHugePages(made->fd(), made->data(), kHugePage - 1, go_on), 0u);
}

TEST(HugePagesTest, EndsWhereNothingIsPossible) {
  void* data = ::mmap(nullptr, kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(data, MAP_FAILED);
  EXPECT_EQ(AllocateHugePages(-1, static_cast<uint8_t*>(data), kHugePage, [](size_t) { return true; }), 0u);
  ::munmap(data, kHugePage);
}

}  // namespace
}  // namespace hga
