// Threads that help a caller with many short pieces of work, on a machine whose cores others want too. They poll for a
// moment, then sleep, and are never waited for unless they have taken an item: a helper whose core is taken by somebody
// else costs its share of the work and no more.
#ifndef HGA_COMMON_BASE_HELPERS_H_
#define HGA_COMMON_BASE_HELPERS_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace hga {

class Helpers {
 public:
  using Work = absl::FunctionRef<void(uint32_t item, uint32_t thread)>;

  // threads: 1 or more, the caller's among them.
  explicit Helpers(uint32_t threads);
  ~Helpers();
  Helpers(const Helpers&) = delete;
  Helpers& operator=(const Helpers&) = delete;

  uint32_t threads() const { return threads_; }
  // work(item, thread) for each item < count, in any order; thread < threads(), the caller's is 0. One caller at a
  // time; `work` must not call it.
  void Run(uint32_t count, Work work);

 private:
  // Takes items of the job at hand until there are none.
  void TakeItems(uint32_t thread);
  void Help(uint32_t thread);
  bool PollForItems() const;

  const uint32_t threads_;

  // Upper half: the job's number; lower half: its items that nobody has taken. What is below belongs to whoever has
  // taken an item of that job, until it is counted as done.
  std::atomic<uint64_t> open_{0};
  std::atomic<uint32_t> done_{0};
  const Work* work_ = nullptr;
  uint32_t count_ = 0;

  std::atomic<uint32_t> asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;  // guarded by mutex_
  std::vector<std::thread> helpers_;
};

}  // namespace hga

#endif  // HGA_COMMON_BASE_HELPERS_H_
