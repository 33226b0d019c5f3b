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
    bool wake;
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (closed_) return;
      entries_.push_back(entry);
      wake = std::exchange(parked_, false);
    }
    if (wake) changed_.notify_one();
  }
  // The slots of `client_id`; of others nothing is left, since the store frees them when their mapping ends.
  std::vector<uint32_t> Take(uint64_t client_id) {
    std::vector<Entry> entries;
    {
      std::lock_guard<std::mutex> lock(mu_);
      entries.swap(entries_);
    }
    std::vector<uint32_t> slots;
    for (const Entry& entry : entries) {
      if (entry.client_id == client_id) slots.push_back(entry.slot);
    }
    return slots;
  }
  // Until there is something, gathered over at least `gather` so that it becomes a batch. False: closed. For one
  // thread, which looks by itself while there was something lately: only the first release after a pause pays for
  // waking it.
  bool Wait(std::chrono::microseconds gather) {
    constexpr int kLooksBeforeParking = 32;
    std::unique_lock<std::mutex> lock(mu_);
    for (int look = 0; !closed_; ++look) {
      changed_.wait_for(lock, gather, [this] { return closed_; });
      if (closed_ || !entries_.empty()) break;
      if (look < kLooksBeforeParking) continue;
      parked_ = true;
      changed_.wait(lock, [this] { return !parked_ || closed_; });
      look = 0;
    }
    return !closed_;
  }
  void Close() {
    {
      std::lock_guard<std::mutex> lock(mu_);
      closed_ = true;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<Entry> entries_;  // guarded by mu_
  bool parked_ = false;         // guarded by mu_: the thread waits to be woken
  bool closed_ = false;         // guarded by mu_
};

}  // namespace hga

#endif  // HGA_KV_STORE_CLIENT_RELEASE_QUEUE_H_
