#include "common/base/serial_executor.h"

#include <future>
#include <thread>
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
  EXPECT_EQ(executor.Run([] { return std::this_thread::get_id(); }), std::this_thread::get_id());
}

TEST(SerialExecutorTest, RunWaitsItsTurn) {
  SerialExecutor executor;
  std::promise<void> started, go_on;
  std::vector<int> seen;
  executor.Post([&] {
    started.set_value();
    go_on.get_future().wait();
    seen.push_back(1);
  });
  started.get_future().wait();
  executor.Post([&] { seen.push_back(2); });
  std::thread releaser([&] { go_on.set_value(); });
  EXPECT_EQ(executor.Run([&] { return seen.size(); }), 2u);
  releaser.join();
}

TEST(SerialExecutorTest, NeverTwoAtOnce) {
  SerialExecutor executor;
  int counter = 0;  // no atomic: the executor keeps the threads apart
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        executor.Run([&] { ++counter; });
        executor.Post([&] { ++counter; });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(executor.Run([&] { return counter; }), 4000);
}

}  // namespace
}  // namespace hga
