// Slots given back by HeldBlock, on their way to the store.
#ifndef HGA_KV_STORE_CLIENT_RELEASE_QUEUE_H_
#define HGA_KV_STORE_CLIENT_RELEASE_QUEUE_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace hga {

// Thread-safe. Shared by the client and by every hold, so holds may outlive the client.
class ReleaseQueue {
 public:
  struct Entry {
    uint64_t client_id;
    uint32_t slot;
  };

  void Push(Entry entry) {
    bool first;
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (closed_) return;
      first = entries_.empty();
      entries_.push_back(entry);
    }
    if (first) changed_.notify_one();
  }
  std::vector<Entry> Take() {
    std::lock_guard<std::mutex> lock(mu_);
    return std::exchange(entries_, {});
  }
  // Until there is something, and then a moment more so that it becomes a batch. False: closed.
  bool Wait(std::chrono::microseconds gather) {
    std::unique_lock<std::mutex> lock(mu_);
    changed_.wait(lock, [this] { return !entries_.empty() || closed_; });
    closing_.wait_for(lock, gather, [this] { return closed_; });
    return !closed_;
  }
  void Close() {
    {
      std::lock_guard<std::mutex> lock(mu_);
      closed_ = true;
    }
    changed_.notify_all();
    closing_.notify_all();
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_, closing_;
  std::vector<Entry> entries_;  // guarded by mu_
  bool closed_ = false;         // guarded by mu_
};

}  // namespace hga

#endif  // HGA_KV_STORE_CLIENT_RELEASE_QUEUE_H_
