#include "common/base/serial_executor.h"

#include <atomic>
#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(SerialExecutorTest, RunsInOrderOnOneThread) {
  std::vector<int> seen;
  {
    SerialExecutor executor(2);  // smaller than what is posted: Post must wait, not drop
    for (int i = 0; i < 100; ++i) executor.Post([&seen, i] { seen.push_back(i); });
  }
  ASSERT_EQ(seen.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(seen[i], i);
}

TEST(SerialExecutorTest, RunReturnsTheResult) {
  SerialExecutor executor;
  EXPECT_EQ(executor.Run([] { return 41 + 1; }), 42);
  EXPECT_TRUE(executor.Run([&] { return executor.OnExecutorThread(); }));
  EXPECT_FALSE(executor.OnExecutorThread());
}

}  // namespace
}  // namespace hga
