#include "tests/bench/disk_limits.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/match.h"

namespace hga {
namespace {

constexpr size_t kAlign = 4096;

struct Freer {
  void operator()(void* p) const { ::free(p); }
};
using Buffer = std::unique_ptr<char, Freer>;

Buffer MakeBuffer(size_t bytes) {
  Buffer buffer(static_cast<char*>(::aligned_alloc(kAlign, bytes)));
  std::mt19937_64 random(1);
  for (size_t i = 0; i + 8 <= bytes; i += 8) *reinterpret_cast<uint64_t*>(buffer.get() + i) = random();
  return buffer;
}

// Calls work(thread, i) for each i below `count` from `depth` threads; MB/s over all of it.
template <typename F>
double Timed(uint64_t count, const DiskPattern& pattern, F&& work) {
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int t = 0; t < pattern.depth; ++t) {
    threads.emplace_back([&, t] {
      const Buffer buffer = MakeBuffer(pattern.block);
      for (uint64_t i = next++; i < count; i = next++) {
        if (!work(buffer.get(), t, i)) failed = true;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return failed ? 0 : static_cast<double>(count * pattern.block) / seconds / 1e6;
}

}  // namespace

double MeasureRawWrite(const std::string& folder, uint64_t bytes, const DiskPattern& pattern) {
  const std::string path = folder + "/raw";
  const int fd = ::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);
  if (fd < 0) return 0;
  const uint64_t count = bytes / pattern.block;
  const auto start = std::chrono::steady_clock::now();
  double rate = Timed(count, pattern, [&](const char* data, int, uint64_t i) {
    return ::pwrite(fd, data, pattern.block, static_cast<off_t>(i * pattern.block)) ==
           static_cast<ssize_t>(pattern.block);
  });
  if (::fdatasync(fd) != 0) rate = 0;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ::close(fd);
  ::unlink(path.c_str());
  return rate == 0 ? 0 : static_cast<double>(count * pattern.block) / seconds / 1e6;
}

double MeasureRawRead(const std::string& folder, const std::string& suffix, uint64_t bytes, uint64_t seed,
                      const DiskPattern& pattern) {
  struct File {
    int fd;
    uint64_t blocks;
  };
  std::vector<File> files;
  uint64_t blocks = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!absl::EndsWith(entry.path().string(), suffix) || entry.file_size() < pattern.block) continue;
    files.push_back({::open(entry.path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC),
                     entry.file_size() / pattern.block});
    blocks += files.back().blocks;
  }
  if (blocks == 0) return 0;
  std::vector<std::mt19937_64> random;
  for (int t = 0; t < pattern.depth; ++t) random.emplace_back(seed * 1000 + t);
  const double rate = Timed(bytes / pattern.block, pattern, [&](char* data, int t, uint64_t) {
    uint64_t at = random[t]() % blocks;
    size_t file = 0;
    for (; at >= files[file].blocks; ++file) at -= files[file].blocks;
    return ::pread(files[file].fd, data, pattern.block, static_cast<off_t>(at * pattern.block)) ==
           static_cast<ssize_t>(pattern.block);
  });
  for (const File& file : files) ::close(file.fd);
  return rate;
}

}  // namespace hga
