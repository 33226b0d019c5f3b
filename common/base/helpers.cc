#include "common/base/helpers.h"

#include <sched.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/pause.h"

namespace hga {
namespace {

// Longer than what lies between two pieces of a decode step, shorter than what another daemon needs to answer.
constexpr absl::Duration kPoll = absl::Microseconds(40);
constexpr int kPausesPerLook = 64;

constexpr uint64_t kItems = 0xffffffff;

}  // namespace

Helpers::Helpers(uint32_t threads) : threads_(std::max(1u, threads)) {
  for (uint32_t i = 1; i < threads_; ++i) helpers_.emplace_back([this, i] { Help(i); });
}

Helpers::~Helpers() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    wake_.notify_all();
  }
  for (std::thread& helper : helpers_) helper.join();
}

void Helpers::Run(uint32_t count, Work work) {
  if (threads_ == 1 || count <= 1) {
    for (uint32_t i = 0; i < count; ++i) work(i, 0);
    return;
  }
  work_ = &work;
  count_ = count;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t job = (open_.load(std::memory_order_relaxed) | kItems) + 1;
  open_.store(job | count);  // sequentially consistent, as the load below: a helper sees the items, or we see it asleep
  if (asleep_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  TakeItems(0);
  for (int looks = 1; done_.load(std::memory_order_acquire) != count; ++looks) {
    Pause();
    if (looks % kPausesPerLook == 0) sched_yield();  // whoever has the item may want this very core
  }
}

void Helpers::TakeItems(uint32_t thread) {
  uint64_t open = open_.load(std::memory_order_acquire);
  while ((open & kItems) > 0) {
    if (!open_.compare_exchange_weak(open, open - 1, std::memory_order_acquire)) continue;
    (*work_)(count_ - static_cast<uint32_t>(open & kItems), thread);
    done_.fetch_add(1, std::memory_order_release);
    open = open_.load(std::memory_order_acquire);
  }
}

bool Helpers::PollForItems() const {
  const absl::Time end = absl::Now() + kPoll;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if ((open_.load(std::memory_order_relaxed) & kItems) > 0) return true;
      Pause();
    }
  } while (absl::Now() < end);
  return false;
}

void Helpers::Help(uint32_t thread) {
  while (true) {
    if (PollForItems()) {
      TakeItems(thread);
      continue;
    }
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.fetch_add(1);
    while (!stop_ && (open_.load() & kItems) == 0) wake_.wait(lock);
    asleep_.fetch_sub(1);
    if (stop_) return;
  }
}

}  // namespace hga
