// The loop under MeasureFmaRate.
#ifndef HGA_COMMON_BASE_FMA_LOOP_H_
#define HGA_COMMON_BASE_FMA_LOOP_H_

#include <cstdint>

namespace hga {

struct FmaWork {
  double flops = 0;  // done
  float sum = 0;     // of the results: to be used, so that the work cannot be optimised away
};

// `rounds` rounds of independent f32 fused multiply-adds in registers, on the calling thread.
FmaWork RunFmaLoop(uint64_t rounds);

}  // namespace hga

#endif  // HGA_COMMON_BASE_FMA_LOOP_H_
