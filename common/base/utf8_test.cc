#include "common/base/utf8.h"

#include <string>

#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(Utf8Test, ValidPrefix) {
  EXPECT_EQ(ValidUtf8Prefix(""), 0u);
  EXPECT_EQ(ValidUtf8Prefix("plain"), 5u);
  EXPECT_EQ(ValidUtf8Prefix("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"), 9u);
  EXPECT_EQ(ValidUtf8Prefix("ab\xff"), 2u);
  EXPECT_EQ(ValidUtf8Prefix("ab\xe2\x82"), 2u);          // cut
  EXPECT_EQ(ValidUtf8Prefix("\xc0\xaf"), 0u);            // overlong
  EXPECT_EQ(ValidUtf8Prefix("\xed\xa0\x80"), 0u);        // surrogate
  EXPECT_EQ(ValidUtf8Prefix("\xf4\x90\x80\x80"), 0u);    // above U+10FFFF
  EXPECT_EQ(ValidUtf8Prefix(absl::string_view("a\0b", 3)), 3u);
}

TEST(Utf8Test, CutAndInvalidAreToldApart) {
  size_t bytes = 0;
  EXPECT_EQ(NextUtf8("\xf0\x9f\x98", &bytes), Utf8Step::kIncomplete);
  EXPECT_EQ(NextUtf8("\xf0\x9f\x41", &bytes), Utf8Step::kInvalid);
  EXPECT_EQ(bytes, 2u);
  EXPECT_EQ(NextUtf8("\x80", &bytes), Utf8Step::kInvalid);
  EXPECT_EQ(bytes, 1u);
}

}  // namespace
}  // namespace hga
