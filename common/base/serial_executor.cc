#include "common/base/serial_executor.h"

namespace hga {

SerialExecutor::SerialExecutor(size_t max_queued) : max_queued_(max_queued), thread_([this] { Loop(); }) {}

SerialExecutor::~SerialExecutor() {
  {
    std::lock_guard<std::mutex> lock(mu_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void SerialExecutor::Post(std::function<void()> work) {
  {
    std::unique_lock<std::mutex> lock(mu_);
    changed_.wait(lock, [this] { return queue_.size() < max_queued_; });
    queue_.push_back(std::move(work));
    if (running_) return;  // End or Loop looks at the queue
  }
  changed_.notify_all();
}

bool SerialExecutor::TryBegin() {
  std::lock_guard<std::mutex> lock(mu_);
  if (running_ || !queue_.empty()) return false;
  running_ = true;
  return true;
}

void SerialExecutor::End() {
  {
    std::lock_guard<std::mutex> lock(mu_);
    running_ = false;
    if (queue_.empty() && !stopping_) return;
  }
  changed_.notify_all();
}

void SerialExecutor::Loop() {
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock<std::mutex> lock(mu_);
      changed_.wait(lock, [this] { return !running_ && (!queue_.empty() || stopping_); });
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
      running_ = true;
    }
    changed_.notify_all();
    work();
    work = nullptr;
    End();
  }
}

}  // namespace hga
