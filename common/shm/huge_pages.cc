#include "common/shm/huge_pages.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "common/base/log.h"

namespace hga {
namespace {

// Debian 12's headers do not have it.
constexpr int kMadvCollapse = 25;
// Requests go first.
constexpr int kNice = 10;

}  // namespace

HugePages::HugePages(uint8_t* data, size_t bytes) : thread_([this, data, bytes] { Collapse(data, bytes); }) {}

HugePages::~HugePages() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void HugePages::Collapse(uint8_t* data, size_t bytes) {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kNice);
  size_t at = (kHugePage - reinterpret_cast<uintptr_t>(data) % kHugePage) % kHugePage;
  for (; at + kHugePage <= bytes && !stop_; at += kHugePage) {
    if (::madvise(data + at, kHugePage, kMadvCollapse) == 0) {
      bytes_.fetch_add(kHugePage, std::memory_order_relaxed);
    } else if (errno == EINVAL) {
      break;  // an older kernel, or a file system that has none
    }
  }
  LogInfo("shared memory on huge pages", {{"bytes", this->bytes()}, {"of", bytes}});
}

}  // namespace hga
