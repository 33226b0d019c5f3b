#include "common/shm/huge_pages.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

namespace hga {
namespace {

// Debian 12's headers do not have it.
constexpr int kMadvCollapse = 25;
// Each call waits once for every core.
constexpr size_t kAtOnce = 64 * kHugePage;

// The kernel makes a huge page where at least one small page is. Nearly all of it is then new zeros: thirty times less
// work than to copy 512 pages together.
bool AllocateOnePageEach(int fd, size_t begin, size_t end) {
  for (size_t at = begin; at < end; at += kHugePage) {
    if (::posix_fallocate(fd, static_cast<off_t>(at), 1) != 0) return false;
  }
  return true;
}

}  // namespace

size_t AllocateHugePages(int fd, uint8_t* data, size_t bytes) {
  const size_t end = bytes / kHugePage * kHugePage;
  size_t done = 0;
  for (size_t at = 0; at < end; at += kAtOnce) {
    const size_t some = std::min(kAtOnce, end - at);
    if (!AllocateOnePageEach(fd, at, at + some)) break;
    if (::madvise(data + at, some, kMadvCollapse) == 0) {
      done += some;
    } else if (errno != EAGAIN) {
      break;  // an older kernel, a file system that has none, or no such memory left
    }
  }
  return done;
}

}  // namespace hga
