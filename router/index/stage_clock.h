// Times the stages of something that takes them in turn.
#ifndef HGA_ROUTER_INDEX_STAGE_CLOCK_H_
#define HGA_ROUTER_INDEX_STAGE_CLOCK_H_

#include <chrono>

namespace hga {

// Adds up what passes between its calls.
class StageClock {
 public:
  void Add(std::chrono::nanoseconds* stage) {
    const auto now = std::chrono::steady_clock::now();
    *stage += now - last_;
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_STAGE_CLOCK_H_
