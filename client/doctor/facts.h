// What `hga doctor` knows about the machine: plain values, so that judging them needs no machine.
#ifndef HGA_CLIENT_DOCTOR_FACTS_H_
#define HGA_CLIENT_DOCTOR_FACTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hga {

inline constexpr uint64_t kUnlimited = UINT64_MAX;

struct DiskFacts {
  std::string folder;  // the data folder, or the nearest one above it that exists
  std::string error;   // why nothing below is known; empty: it is
  bool direct_io = false;
  uint64_t free_bytes = 0;
  double write_mb_per_s = 0, read_mb_per_s = 0;  // one request of 1 MiB at a time
  double random_read_us = 0;                     // median of 64 KiB
};

struct PathFacts {
  std::string path;
  bool exists = false;
  bool mine = false;      // owned by who asks
  bool writable = false;  // by who asks
  uint32_t mode = 0;      // permission bits
};

struct DaemonFacts {
  std::string name, address;
  std::string error;  // empty: it serves
  std::optional<PathFacts> socket;
  int metrics_port = 0;
  bool metrics_port_taken = false;
};

struct MachineFacts {
  uint64_t arena_bytes = 0;  // what is planned
  uint64_t memory_total = 0, memory_available = 0, swap_total = 0;
  uint64_t shm_total = 0;  // of the file system at /dev/shm; 0: none
  std::string huge_shm;    // "never", "advise", ... ; empty: the kernel has none
  uint64_t memlock_limit = 0, open_files_limit = 0;
  int cores = 0;
  bool x86 = false, avx2 = false, avx512 = false, vnni = false, bf16 = false;
  uint32_t gpu_devices = 0;
  bool cuda_driver = false;  // libcuda can be loaded
  std::string driver_version;
  DiskFacts disk;
  PathFacts data;
  std::vector<DaemonFacts> daemons;
};

}  // namespace hga

#endif  // HGA_CLIENT_DOCTOR_FACTS_H_
