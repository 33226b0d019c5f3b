// What this machine can do at most, measured: the yardstick for speeds.
#ifndef HGA_COMMON_BASE_MACHINE_LIMITS_H_
#define HGA_COMMON_BASE_MACHINE_LIMITS_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace hga {

// In words: CPU model and cores.
std::string MachineName();

// Read bandwidth of memory in GB/s with one thread per core over 512 MiB, which it allocates: the median of some passes
// by the faster of two loops, a plain one and one that asks for memory ahead.
double MeasureReadBandwidth();

// Multiplications and additions of floats that the vector units of all cores do, in GFLOP/s, median of some passes: f32
// fused multiply-add in registers, with the widest vectors there are. What multiplies bf16 or int8 may be faster.
double MeasureFmaRate();

// Sum of the words, read at the speed of memory; what lies so many words ahead is asked for meanwhile. `count` is a
// multiple of 8.
uint64_t SumWords(const uint64_t* data, size_t count, size_t words_ahead = 0);

}  // namespace hga

#endif  // HGA_COMMON_BASE_MACHINE_LIMITS_H_
