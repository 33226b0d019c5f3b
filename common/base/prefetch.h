// Asks for memory ahead of its use.
#ifndef HGA_COMMON_BASE_PREFETCH_H_
#define HGA_COMMON_BASE_PREFETCH_H_

#include <cstddef>

namespace hga {

// Bytes.
inline constexpr size_t kCacheLine = 64;

// A cache line, into the second cache: for rows at random places, of which as many as a core can have under way are.
// The first cache's buffers for what it misses are few (24 on Zen 4, 10 to 16 on Intel's cores), and the loads behind
// them wait, too, so that reading and computing add up. Memory read in order the hardware fetches meanwhile: there it
// gives nothing. Ask for a line of several rows by turns: where one row's lines follow each other the hardware fetches
// what lies behind it, for nothing.
//
// Bound to be inlined: gcc takes a function that does nothing else for one without effect, and leaves the call out.
__attribute__((always_inline)) inline void PrefetchToL2(const void* line) { __builtin_prefetch(line, 0, 2); }

}  // namespace hga

#endif  // HGA_COMMON_BASE_PREFETCH_H_
