#include "kv_store/store/trace.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"

namespace hga {
namespace {

class TraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/hga.XXXXXX";
    ASSERT_NE(::mkdtemp(dir), nullptr);
    dir_ = dir;
    path_ = dir_ + "/trace";
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  static ChunkHash Hash(int i) { return HashBytes(std::to_string(i)); }

  std::string dir_, path_;
};

TEST_F(TraceTest, ReadsWhatWasRecorded) {
  {
    auto recorder = TraceRecorder::Create(path_, 1 << 20);
    ASSERT_TRUE(recorder.ok());
    (*recorder)->Start({kTraceMagic, 4096, 300, 7});
    for (int i = 0; i < 200; ++i) (*recorder)->Add(TraceEvent::kCommit, Hash(i));
    (*recorder)->Add(TraceEvent::kFetch, Hash(150), 299);
    (*recorder)->Add(TraceEvent::kErase, Hash(0));
  }
  const auto trace = ReadTrace(path_);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->header.block_bytes, 4096u);
  EXPECT_EQ(trace->header.slots, 7u);
  ASSERT_EQ(trace->entries.size(), 202u);
  EXPECT_EQ(trace->entries[199].chunk, 199u);
  EXPECT_EQ(trace->entries[200].event, TraceEvent::kFetch);
  EXPECT_EQ(trace->entries[200].chunk, 150u);
  EXPECT_EQ(trace->entries[200].layer, 299u);
  EXPECT_EQ(trace->entries[201].event, TraceEvent::kErase);
  EXPECT_EQ(trace->entries[201].chunk, 0u);
}

TEST_F(TraceTest, StopsAtItsBound) {
  {
    auto recorder = TraceRecorder::Create(path_, 100);
    ASSERT_TRUE(recorder.ok());
    (*recorder)->Start({kTraceMagic, 4096, 3, 7});
    for (int i = 0; i < 1000; ++i) (*recorder)->Add(TraceEvent::kFetch, Hash(0), 1);
  }
  EXPECT_LE(std::filesystem::file_size(path_), 100u);
  const auto trace = ReadTrace(path_);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_GT(trace->entries.size(), 20u);
}

TEST_F(TraceTest, RefusesWhatIsNoTrace) {
  std::ofstream(path_) << std::string(100, 'x');
  EXPECT_EQ(ReadTrace(path_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadTrace(dir_ + "/none").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hga
