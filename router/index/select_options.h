// What all parts of a selection know of it.
#ifndef HGA_ROUTER_INDEX_SELECT_OPTIONS_H_
#define HGA_ROUTER_INDEX_SELECT_OPTIONS_H_

#include <chrono>
#include <cstdint>

#include "router/index/score.h"

namespace hga {

// Chunks that the first level keeps: enough for `overprovision` times the budget, and never fewer than `scan_chunks`.
// The first level is far coarser than the second: what it drops, nothing brings back. So `scan_chunks` is as many as
// 256K tokens have, of which nothing is dropped (decision 41).
struct SelectOptions {
  uint32_t overprovision = 4;
  uint32_t scan_chunks = 4096;
  Pooling pooling = Pooling::kMeanSoftmax;
};

// Where the time of selecting goes, of all threads; counts up.
struct SelectTimes {
  std::chrono::nanoseconds prepare{0};  // queries to floats and tables
  std::chrono::nanoseconds coarse{0};   // scoring and choosing chunks
  std::chrono::nanoseconds fine{0};     // scoring what is in them
  std::chrono::nanoseconds pick{0};     // taking the best until the budget is reached

  SelectTimes& operator+=(const SelectTimes& other) {
    prepare += other.prepare;
    coarse += other.coarse;
    fine += other.fine;
    pick += other.pick;
    return *this;
  }
};

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SELECT_OPTIONS_H_
