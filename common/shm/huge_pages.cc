#include "common/shm/huge_pages.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "common/base/cores.h"
#include "common/base/helpers.h"

namespace hga {
namespace {

// Debian 12's headers do not have it.
constexpr int kMadvCollapse = 25;
// Each call waits once for every core; a page may take the host 20 ms.
constexpr size_t kAtOnce = 16 * kHugePage;
constexpr uint32_t kMostThreads = 8;

// The kernel makes a huge page where at least one small page is. Nearly all of it is then new zeros: thirty times less
// work than to copy 512 pages together.
bool AllocateOnePageEach(int fd, size_t begin, size_t end) {
  for (size_t at = begin; at < end; at += kHugePage) {
    if (::posix_fallocate(fd, static_cast<off_t>(at), 1) != 0) return false;
  }
  return true;
}

}  // namespace

size_t AllocateHugePages(int fd, uint8_t* data, size_t bytes, AllocationProgress progress) {
  const size_t end = bytes / kHugePage * kHugePage;
  const auto pieces = static_cast<uint32_t>((end + kAtOnce - 1) / kAtOnce);
  std::atomic<size_t> done{0};
  std::atomic<bool> stop{false};
  Helpers helpers(std::min({Cores(), kMostThreads, pieces}));
  helpers.Run(pieces, [&](uint32_t piece, uint32_t thread) {
    if (stop) return;
    const size_t at = piece * kAtOnce, some = std::min(kAtOnce, end - at);
    if (!AllocateOnePageEach(fd, at, at + some)) {
      stop = true;
    } else if (::madvise(data + at, some, kMadvCollapse) == 0) {
      done += some;
    } else if (errno != EAGAIN) {
      stop = true;  // an older kernel, a file system that has none, or no such memory left
    }
    if (thread == 0 && !progress(done)) stop = true;
  });
  return done;
}

}  // namespace hga
