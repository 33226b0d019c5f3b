// How many cores there are to work with.
#ifndef HGA_COMMON_BASE_CORES_H_
#define HGA_COMMON_BASE_CORES_H_

#include <algorithm>
#include <cstdint>
#include <thread>

namespace hga {

// Cores that this process may run on, as far as that is known; at least 1.
inline uint32_t Cores() { return std::max<uint32_t>(1, std::thread::hardware_concurrency()); }

// Threads by an option whose 0 means one per core.
inline uint32_t ThreadsOf(uint32_t asked) { return asked > 0 ? asked : Cores(); }

}  // namespace hga

#endif  // HGA_COMMON_BASE_CORES_H_
