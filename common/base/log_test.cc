#include "common/base/log.h"

#include <string>
#include <thread>

#include "common/base/request_id.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::MatchesRegex;

template <typename F>
std::string Logged(F&& log) {
  testing::internal::CaptureStderr();
  log();
  return testing::internal::GetCapturedStderr();
}

TEST(LogTest, ALineIsKeysAndValues) {
  InitLog("kv_store");
  const std::string line = Logged([] { LogWarning("client left", {{"client", 17}, {"seconds", 0.5}}); });
  EXPECT_THAT(line, MatchesRegex("time=[0-9-]+T[0-9:.]+Z level=warning daemon=kv_store msg=\"client left\" "
                                 "client=17 seconds=0.5\n"));
}

TEST(LogTest, ValuesCannotBreakTheLine) {
  const std::string line = Logged([] { LogError("e", {{"error", "a \"b\"\nlevel=info x=\\"}, {"empty", ""}}); });
  EXPECT_THAT(line, EndsWith("error=\"a \\\"b\\\"\\nlevel=info x=\\\\\" empty=\"\"\n"));
}

TEST(LogTest, LongValuesAreCut) {
  const std::string line = Logged([] { LogInfo("e", {{"v", std::string(5000, 'x')}}); });
  EXPECT_LT(line.size(), 1300u);
}

TEST(LogTest, LowerLevelsAreLeftOut) {
  EXPECT_EQ(Logged([] { LogDebug("d", {}); }), "");
  SetLogLevel("error");
  EXPECT_EQ(Logged([] { LogWarning("w", {}); }), "");
  EXPECT_THAT(Logged([] { LogError("e"); }), HasSubstr("level=error"));
  SetLogLevel("debug");
  EXPECT_THAT(Logged([] { LogDebug("d", {}); }), HasSubstr("level=debug"));
  SetLogLevel("nonsense");
  EXPECT_THAT(Logged([] { LogDebug("d", {}); }), HasSubstr("level=debug"));
  SetLogLevel("info");
}

TEST(LogTest, ARequestsNameIsOnEveryLineOfItsScope) {
  const std::string outside = Logged([] { LogInfo("a"); });
  EXPECT_THAT(outside, testing::Not(HasSubstr("request_id")));
  const RequestScope outer("abc");
  {
    const RequestScope inner("def");
    EXPECT_THAT(Logged([] { LogInfo("b"); }), EndsWith(" request_id=def\n"));
    // Another thread works for nobody.
    std::string other;
    std::thread([&] { other = CurrentRequestId(); }).join();
    EXPECT_EQ(other, "");
  }
  EXPECT_THAT(Logged([] { LogInfo("c"); }), EndsWith(" request_id=abc\n"));
}

TEST(RequestIdTest, MadeOnesDifferAndAreValid) {
  const std::string a = NewRequestId(), b = NewRequestId();
  EXPECT_NE(a, b);
  EXPECT_EQ(a.size(), 16u);
  EXPECT_TRUE(IsRequestId(a) && IsRequestId(a + "," + b));
}

TEST(RequestIdTest, JoinedOnesAreValidHoweverMany) {
  EXPECT_EQ(JoinRequestIds("", "a"), "a");
  EXPECT_EQ(JoinRequestIds("a", ""), "a");
  std::string all;
  for (int i = 0; i < 100; ++i) all = JoinRequestIds(all, "0123456789abcdef");
  EXPECT_TRUE(IsRequestId(all)) << all;
  EXPECT_EQ(all.size(), 7 * 17 - 1u);
}

TEST(RequestIdTest, WhatCouldHarmALogIsRefused) {
  for (const char* bad : {"", " ", "a b", "a\n", "a=b", "\"", "\xc3\xa4"}) EXPECT_FALSE(IsRequestId(bad)) << bad;
  EXPECT_FALSE(IsRequestId(std::string(129, 'a')));
  EXPECT_TRUE(IsRequestId(std::string(128, 'a')));
}

}  // namespace
}  // namespace hga
