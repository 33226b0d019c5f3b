// One thread that owns the state of a service: other threads hand it closures through a bounded queue.
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

// Thread-safe. Runs closures in the order they came. The destructor runs what is queued, then joins.
class SerialExecutor {
 public:
  explicit SerialExecutor(size_t max_queued = 4096);
  ~SerialExecutor();
  SerialExecutor(const SerialExecutor&) = delete;
  SerialExecutor& operator=(const SerialExecutor&) = delete;

  // Blocks while the queue is full. Must not be called from the executor's own thread with a full queue.
  void Post(std::function<void()> work);

  // Runs `work` on the executor's thread and returns its result. Never from that thread.
  template <typename F>
  std::invoke_result_t<F> Run(F&& work) {
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

  bool OnExecutorThread() const { return std::this_thread::get_id() == thread_.get_id(); }

 private:
  void Loop();

  const size_t max_queued_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;  // guarded by mu_
  bool stopping_ = false;                    // guarded by mu_
  std::thread thread_;
};

}  // namespace hga

#endif  // HGA_COMMON_BASE_SERIAL_EXECUTOR_H_
