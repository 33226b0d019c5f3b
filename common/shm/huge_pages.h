// Puts shared memory on huge pages behind the back of those who use it. Keys and values that attention reads lie
// scattered over gigabytes: on pages of 4 KiB finding each page takes as long as reading it.
#ifndef HGA_COMMON_SHM_HUGE_PAGES_H_
#define HGA_COMMON_SHM_HUGE_PAGES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

namespace hga {

inline constexpr size_t kHugePage = size_t{2} << 20;

// A thread that goes through a mapping once and has the kernel put what lies on small pages on huge ones, by copying
// (MADV_COLLAPSE, Linux 6.1: whatever the system's settings for huge pages are, but "deny"). Contents stay, and readers
// and writers in any process go on meanwhile. What cannot be had stays as it is.
class HugePages {
 public:
  // data: allocated, and mapped as MappedFile maps; it outlives this.
  HugePages(uint8_t* data, size_t bytes);
  // Stops after the page at hand.
  ~HugePages();
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;

  // Until all that is possible is done.
  void Wait() { thread_.join(); }
  // On huge pages so far.
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  void Collapse(uint8_t* data, size_t bytes);

  std::atomic<bool> stop_{false};
  std::atomic<size_t> bytes_{0};
  std::thread thread_;
};

}  // namespace hga

#endif  // HGA_COMMON_SHM_HUGE_PAGES_H_
