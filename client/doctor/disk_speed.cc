#include "client/doctor/disk_speed.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"

namespace hga {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kSmall = size_t{64} << 10;
constexpr int kSmallReads = 100;

using Clock = std::chrono::steady_clock;
double Seconds(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

struct Free {
  void operator()(char* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<char, Free>;

// Closed by its destructor. Without a name from the start where the file system knows that, else unlinked at once.
class Scratch {
 public:
  Scratch(const std::string& folder, bool direct) {
    const int flags = O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0);
    fd_ = ::open(folder.c_str(), flags | O_TMPFILE, 0600);
    if (fd_ >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return;
    const std::string path = absl::StrCat(folder, "/.hga-doctor-", ::getpid());
    fd_ = ::open(path.c_str(), flags | O_CREAT | O_EXCL, 0600);
    if (fd_ >= 0) ::unlink(path.c_str());
  }
  ~Scratch() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

bool WriteAll(int fd, const char* block, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kMiB) {
    if (::pwrite(fd, block, kMiB, static_cast<off_t>(at)) != static_cast<ssize_t>(kMiB)) return false;
  }
  return ::fdatasync(fd) == 0;
}

bool ReadAll(int fd, char* block, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kMiB) {
    if (::pread(fd, block, kMiB, static_cast<off_t>(at)) != static_cast<ssize_t>(kMiB)) return false;
  }
  return true;
}

// Microseconds; 0 after an error.
double MedianRead(int fd, char* block, uint64_t bytes) {
  std::mt19937_64 random(1);
  std::vector<double> times;
  for (int i = 0; i < kSmallReads; ++i) {
    const off_t at = static_cast<off_t>(random() % (bytes / kSmall) * kSmall);
    const auto begin = Clock::now();
    if (::pread(fd, block, kSmall, at) != static_cast<ssize_t>(kSmall)) return 0;
    times.push_back(Seconds(begin) * 1e6);
  }
  std::nth_element(times.begin(), times.begin() + kSmallReads / 2, times.end());
  return times[kSmallReads / 2];
}

std::string NearestFolder(const std::string& folder) {
  std::error_code ignored;
  std::filesystem::path at = std::filesystem::absolute(folder, ignored);
  while (!std::filesystem::is_directory(at, ignored) && at != at.parent_path()) at = at.parent_path();
  return at.string();
}

}  // namespace

DiskFacts MeasureDisk(const std::string& folder, uint64_t bytes) {
  DiskFacts facts;
  facts.folder = NearestFolder(folder);
  const auto failed = [&](const char* what) {
    facts.error = absl::StrCat(what, " ", facts.folder, ": ", std::strerror(errno));
    return facts;
  };
  struct statvfs info;
  if (::statvfs(facts.folder.c_str(), &info) != 0) return failed("cannot look at");
  facts.free_bytes = uint64_t{info.f_bavail} * info.f_frsize;

  const Buffer block(static_cast<char*>(std::aligned_alloc(4096, kMiB)));
  std::mt19937_64 random(2);  // disks and hosts see through zeros
  for (size_t i = 0; i < kMiB; i += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(block.get() + i, &word, sizeof(word));
  }
  for (const bool direct : {true, false}) {
    const Scratch file(facts.folder, direct);
    if (file.fd() < 0) {
      if (direct && errno == EINVAL) continue;
      return failed("cannot write in");
    }
    auto begin = Clock::now();
    if (!WriteAll(file.fd(), block.get(), bytes)) {
      if (direct && errno == EINVAL) continue;
      return failed("cannot write in");
    }
    facts.direct_io = direct;
    facts.write_mb_per_s = static_cast<double>(bytes) / 1e6 / Seconds(begin);
    begin = Clock::now();
    if (!ReadAll(file.fd(), block.get(), bytes)) return failed("cannot read in");
    facts.read_mb_per_s = static_cast<double>(bytes) / 1e6 / Seconds(begin);
    facts.random_read_us = MedianRead(file.fd(), block.get(), bytes);
    break;
  }
  return facts;
}

}  // namespace hga
