#include "gpu_worker/engine/stop_text.h"

#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(StopTextTest, HoldsBackWhatMayBecomeAStopString) {
  StopText text({"END"});
  EXPECT_EQ(text.Add("a E"), "a ");
  EXPECT_EQ(text.Add("N"), "");
  EXPECT_EQ(text.Add("Tries"), "ENTries");
  EXPECT_FALSE(text.stopped());
  EXPECT_EQ(text.Add("bE"), "b");
  EXPECT_EQ(text.Add("ND more"), "");
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(text.Add("x"), "");
  EXPECT_EQ(text.Flush(), "");
}

TEST(StopTextTest, TheFirstStopStringWins) {
  StopText text({"dog", "cat"});
  EXPECT_EQ(text.Add("a cat and a dog"), "a ");
  EXPECT_TRUE(text.stopped());
}

TEST(StopTextTest, RepeatingBeginningIsFound) {
  StopText text({"aab"});
  std::string shown;
  for (const char* bytes : {"a", "a", "a", "b"}) shown += text.Add(bytes);
  EXPECT_EQ(shown, "a");
  EXPECT_TRUE(text.stopped());
}

TEST(StopTextTest, CharactersComeWhole) {
  StopText text({});
  EXPECT_EQ(text.Add("\xe2\x82"), "");
  EXPECT_EQ(text.Add("\xac!"), "\xe2\x82\xac!");
  EXPECT_EQ(text.Add("\xff" "b"), "\xef\xbf\xbd" "b");
  EXPECT_EQ(text.Add("c\xf0\x9f"), "c");
  EXPECT_EQ(text.Flush(), "\xef\xbf\xbd");
}

TEST(StopTextTest, FlushGivesTheHeldBeginning) {
  StopText text({"END"});
  EXPECT_EQ(text.Add("EN"), "");
  EXPECT_EQ(text.Flush(), "EN");
}

TEST(StopTextTest, Utf8) {
  EXPECT_TRUE(IsUtf8("a\xc3\xa9\xf0\x9f\x98\x80"));
  for (const char* bad : {"\xc0\x80", "\xed\xa0\x80", "\xe2\x82", "\xf4\x90\x80\x80", "\x80"}) {
    EXPECT_FALSE(IsUtf8(bad));
  }
}

}  // namespace
}  // namespace hga
