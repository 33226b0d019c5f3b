#include "gpu_worker/engine/step_trace.h"

#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "common/base/temporary_folder.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

constexpr uint64_t kPlenty = 1 << 20;

class StepTraceTest : public testing::Test {
 protected:
  std::unique_ptr<StepTrace> Open(uint64_t max_bytes) { return *StepTrace::Open(folder_.File("t.json"), max_bytes); }
  nlohmann::json Events() {
    nlohmann::json spans;
    for (auto& event : nlohmann::json::parse(folder_.Read("t.json"))) {
      if (event["ph"] == "X") spans.push_back(event);
    }
    return spans;
  }
  static double End(const nlohmann::json& e) { return e["ts"].get<double>() + e["dur"].get<double>(); }

  TemporaryFolder folder_;
};

TEST_F(StepTraceTest, SpansNestAndCarryTheirNumbers) {
  auto trace = Open(kPlenty);
  {
    const StepTrace::Span step(trace.get(), "decode", {"rows", 2, "position", 7000});
    StepTrace::Span stage(trace.get(), "first", {"layer", 3});
    stage.Next("second");
  }
  trace->Write();
  { const StepTrace::Span later(trace.get(), "later"); }
  trace.reset();
  const auto events = Events();
  ASSERT_EQ(events.size(), 4u);
  const auto &first = events[0], &second = events[1], &step = events[2], &later = events[3];  // as they ended
  EXPECT_EQ(first["name"], "first");
  EXPECT_EQ(second["name"], "second");
  EXPECT_EQ(first["args"], nlohmann::json({{"layer", 3}}));
  EXPECT_EQ(second["args"], first["args"]);
  EXPECT_EQ(step["args"], nlohmann::json({{"rows", 2}, {"position", 7000}}));
  EXPECT_FALSE(later.contains("args"));
  constexpr double kDigit = 0.0015;  // times are written with three digits
  EXPECT_GE(first["ts"].get<double>(), step["ts"].get<double>());
  EXPECT_NEAR(second["ts"].get<double>(), End(first), kDigit);
  EXPECT_LE(End(second), End(step) + kDigit);
  EXPECT_GE(later["ts"].get<double>(), End(step) - kDigit);
}

TEST_F(StepTraceTest, WithoutATraceNothingHappens) {
  StepTrace::Span span(nullptr, "step");
  span.Next("more");
}

TEST_F(StepTraceTest, WhatWasWrittenIsWholeBeforeTheEnd) {
  auto trace = Open(kPlenty);
  { const StepTrace::Span span(trace.get(), "step"); }
  trace->Write();
  EXPECT_EQ(nlohmann::json::parse(folder_.Read("t.json") + "]").size(), 3u);  // two that name process and thread
}

TEST_F(StepTraceTest, StaysBelowItsBoundAndIsValid) {
  constexpr uint64_t kBound = 4096;
  auto trace = Open(kBound);
  for (int i = 0; i < 1000; ++i) {
    { const StepTrace::Span span(trace.get(), "step"); }
    trace->Write();
  }
  trace.reset();
  EXPECT_LE(std::filesystem::file_size(folder_.File("t.json")), kBound);
  EXPECT_GT(Events().size(), 20u);
}

TEST_F(StepTraceTest, FileIsItsOwnersOnly) {
  folder_.Write("t.json", "old");
  ASSERT_EQ(::chmod(folder_.File("t.json").c_str(), 0644), 0);
  Open(kPlenty).reset();
  struct stat info;
  ASSERT_EQ(::stat(folder_.File("t.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(Events().size(), 0u);
}

TEST_F(StepTraceTest, NoSuchFolder) {
  const auto trace = StepTrace::Open(folder_.File("nowhere/t.json"), kPlenty);
  EXPECT_EQ(trace.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(StepTraceTest, ALinkIsNotFollowed) {
  folder_.Write("precious", "old");
  std::filesystem::create_symlink(folder_.File("precious"), folder_.File("t.json"));
  EXPECT_FALSE(StepTrace::Open(folder_.File("t.json"), kPlenty).ok());
  EXPECT_EQ(folder_.Read("precious"), "old");
}

TEST_F(StepTraceTest, AFullDiskEndsTheTraceOnly) {
  auto trace = StepTrace::Open("/dev/full", kPlenty);
  ASSERT_TRUE(trace.ok()) << trace.status();
  { const StepTrace::Span span(trace->get(), "step"); }
  (*trace)->Write();
  { const StepTrace::Span span(trace->get(), "step"); }
  (*trace)->Write();
}

}  // namespace
}  // namespace hga
