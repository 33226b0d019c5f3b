// One owner at a time for the state of a service: threads hand it closures through a bounded queue.
#ifndef HGA_COMMON_BASE_SERIAL_EXECUTOR_H_
#define HGA_COMMON_BASE_SERIAL_EXECUTOR_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

namespace hga {

// Thread-safe. Runs closures one after the other, in the order they came. The destructor runs what is queued, then
// joins.
class SerialExecutor {
 public:
  explicit SerialExecutor(size_t max_queued = 4096);
  ~SerialExecutor();
  SerialExecutor(const SerialExecutor&) = delete;
  SerialExecutor& operator=(const SerialExecutor&) = delete;

  // Blocks while the queue is full. Must not be called from a closure with a full queue.
  void Post(std::function<void()> work);

  // Runs `work` and returns its result. On the caller's own thread where nothing else runs or waits: waking another
  // one costs more than most closures take. Never from a closure.
  template <typename F>
  std::invoke_result_t<F> Run(F&& work) {
    if (TryBegin()) {
      const Turn turn{this};
      return work();
    }
    std::promise<std::invoke_result_t<F>> promise;
    auto future = promise.get_future();
    Post([&] {
      if constexpr (std::is_void_v<std::invoke_result_t<F>>) {
        work();
        promise.set_value();
      } else {
        promise.set_value(work());
      }
    });
    return future.get();
  }

 private:
  struct Turn {
    SerialExecutor* executor;
    ~Turn() { executor->End(); }
  };

  bool TryBegin();
  void End();
  void Loop();

  const size_t max_queued_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;  // guarded by mu_
  bool running_ = false;                     // guarded by mu_: a closure runs
  bool stopping_ = false;                    // guarded by mu_
  std::thread thread_;
};

}  // namespace hga

#endif  // HGA_COMMON_BASE_SERIAL_EXECUTOR_H_
