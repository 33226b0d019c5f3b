// What the store wants to tell one attached client.
#ifndef HGA_KV_STORE_STORE_MAILBOX_H_
#define HGA_KV_STORE_STORE_MAILBOX_H_

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace hga {

// Thread-safe. The store asks, the client's stream takes.
class Mailbox {
 public:
  void AskBack(uint32_t slots) {
    {
      std::lock_guard<std::mutex> lock(mu_);
      slots_ = std::max(slots_, slots);
    }
    changed_.notify_one();
  }
  void Close() {
    {
      std::lock_guard<std::mutex> lock(mu_);
      closed_ = true;
    }
    changed_.notify_one();
  }
  // Slots asked back since the last call, waiting up to `timeout` for some.
  uint32_t Take(std::chrono::milliseconds timeout) {
    std::unique_lock<std::mutex> lock(mu_);
    changed_.wait_for(lock, timeout, [this] { return slots_ > 0 || closed_; });
    const uint32_t slots = slots_;
    slots_ = 0;
    return slots;
  }
  bool closed() {
    std::lock_guard<std::mutex> lock(mu_);
    return closed_;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  uint32_t slots_ = 0;   // guarded by mu_
  bool closed_ = false;  // guarded by mu_
};

}  // namespace hga

#endif  // HGA_KV_STORE_STORE_MAILBOX_H_
