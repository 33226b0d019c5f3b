// The machine's own limits, measured beside what is built on it.
#ifndef HGA_TESTS_BENCH_DISK_LIMITS_H_
#define HGA_TESTS_BENCH_DISK_LIMITS_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace hga {

// Writes and reads past the page cache, of `block` bytes at once by `depth` threads. MB/s; 0: could not.
struct DiskPattern {
  size_t block = 128 << 10;
  int depth = 16;
};
// Writes a file of `bytes` in `folder` front to back, syncs it, deletes it.
double MeasureRawWrite(const std::string& folder, uint64_t bytes, const DiskPattern& pattern);
// Reads `bytes` in all, at random places of the files in `folder` whose names end in `suffix`.
double MeasureRawRead(const std::string& folder, const std::string& suffix, uint64_t bytes, uint64_t seed,
                      const DiskPattern& pattern);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_DISK_LIMITS_H_
