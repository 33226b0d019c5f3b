// Huge pages for shared memory. Keys and values that attention reads lie scattered over gigabytes: on pages of 4 KiB
// finding each page takes as long as reading it.
#ifndef HGA_COMMON_SHM_HUGE_PAGES_H_
#define HGA_COMMON_SHM_HUGE_PAGES_H_

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"

namespace hga {

inline constexpr size_t kHugePage = size_t{2} << 20;

// Told now and then, by the thread that asked, how many bytes are done. false: stop.
using AllocationProgress = absl::FunctionRef<bool(size_t done)>;

// Gives a new, empty file's memory huge pages as far as the kernel has them (MADV_COLLAPSE, Linux 6.1: whatever the
// system's settings for huge pages are, but "deny"). data: the file, mapped from its beginning, at a multiple of
// kHugePage. What stays without is a hole, as it was. Never touches memory, so that no full file system can raise
// SIGBUS. Works with a thread for each core, 8 at most: where the host has to find the memory, two take half as long as
// one. Returns how many bytes lie on huge pages for certain.
size_t AllocateHugePages(int fd, uint8_t* data, size_t bytes, AllocationProgress progress);

}  // namespace hga

#endif  // HGA_COMMON_SHM_HUGE_PAGES_H_
