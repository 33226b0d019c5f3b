// The threads of the CPU backend. A prefill step runs on OpenMP's team, which oneDNN shares, so that nothing is
// oversubscribed. A decode step is made of hundreds of parts of some 50 us each, between which the router, gRPC and the
// client want a core too: it runs on helpers that poll for a moment, then sleep, and that are never waited for unless
// they have taken an item. So a helper whose core is taken by somebody else costs its share of the work and no more.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_WORKERS_H_
#define HGA_GPU_WORKER_BACKEND_CPU_WORKERS_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace hga {

class Workers {
 public:
  using Work = absl::FunctionRef<void(uint32_t item, uint32_t thread)>;

  // threads: 1 or more, the caller's among them.
  explicit Workers(uint32_t threads);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  uint32_t threads() const { return threads_; }
  // Which team the calls of the calling thread's step go to.
  void BeginStep(bool decode);
  // work(item, thread) for each item < count, in any order; thread < threads(). One caller at a time; `work` must not
  // call it.
  void Run(uint32_t count, Work work);
  // The same for the rows of a batch, by the caller alone if they are too few to be worth sharing out.
  void RunRows(uint32_t rows, Work work);

 private:
  void RunOnHelpers(uint32_t count, Work work);
  // Takes items of the job at hand until there are none.
  void TakeItems(uint32_t thread);
  void Help(uint32_t thread);
  bool PollForItems() const;

  const uint32_t threads_;
  bool decode_ = false;

  // Upper half: the job's number; lower half: its items that nobody has taken. What is below belongs to whoever has
  // taken an item of that job, until it is counted as done.
  std::atomic<uint64_t> open_{0};
  std::atomic<uint32_t> done_{0};
  const Work* work_ = nullptr;
  uint32_t count_ = 0;

  std::atomic<uint32_t> asleep_{0};
  absl::Mutex mutex_;
  absl::CondVar wake_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> helpers_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_WORKERS_H_
