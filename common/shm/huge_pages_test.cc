#include "common/shm/huge_pages.h"

#include <cstring>

#include "common/base/temporary_folder.h"
#include "common/shm/mapped_file.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// Whether the machine has huge pages to give is its business; contents must stay, for all who have the file mapped.
TEST(HugePagesTest, ContentsStay) {
  const TemporaryFolder folder("/dev/shm");
  constexpr size_t kBytes = 3 * kHugePage + 4096;
  auto made = MappedFile::Create(folder.File("arena"), kBytes);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(made->data()) % kHugePage, 0u);
  for (size_t i = 0; i < kBytes; i += 512) std::memcpy(made->data() + i, &i, sizeof(i));
  auto opened = MappedFile::Open(folder.File("arena"), kBytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->data()[512 + 1], 2);
  HugePages pages(made->data(), kBytes);
  opened->data()[kBytes - 1] = 9;
  pages.Wait();
  EXPECT_LE(pages.bytes(), 3 * kHugePage);
  EXPECT_EQ(pages.bytes() % kHugePage, 0u);
  EXPECT_EQ(made->data()[kBytes - 1], 9);
  for (size_t i = 0; i < kBytes; i += 512) {
    size_t found = 0;
    std::memcpy(&found, opened->data() + i, sizeof(found));
    ASSERT_EQ(found, i);
  }
}

TEST(HugePagesTest, EndsWhereNothingIsPossible) {
  alignas(64) static uint8_t small[64];
  HugePages pages(small, sizeof(small));
  pages.Wait();
  EXPECT_EQ(pages.bytes(), 0u);
}

TEST(HugePagesTest, CanBeStoppedAtAnyTime) {
  const TemporaryFolder folder("/dev/shm");
  auto made = MappedFile::Create(folder.File("arena"), 8 * kHugePage);
  ASSERT_TRUE(made.ok()) << made.status();
  made->data()[5 * kHugePage] = 3;
  { const HugePages pages(made->data(), made->size()); }
  EXPECT_EQ(made->data()[5 * kHugePage], 3);
}

}  // namespace
}  // namespace hga
