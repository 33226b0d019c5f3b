// Fills in MachineFacts from the running system.
#ifndef HGA_CLIENT_DOCTOR_READ_MACHINE_H_
#define HGA_CLIENT_DOCTOR_READ_MACHINE_H_

#include <string>
#include <vector>

#include "client/doctor/facts.h"

namespace hga {

struct DoctorTarget {
  std::string root;         // put before /proc, /sys and /dev; empty but in tests
  std::string data_folder;  // kv_store's
  std::string socket_folder;
  std::string worker;  // the worker's address
  uint64_t arena_bytes = 0;
  uint64_t disk_test_bytes = uint64_t{64} << 20;
};

// Writes to the data folder's disk for a moment and asks the three daemons; changes nothing.
MachineFacts ReadMachine(const DoctorTarget& target);

// Parts of it, for tests.
// Of /proc/meminfo, in bytes; 0 where `name` is not there.
uint64_t MemoryLine(const std::string& meminfo, const std::string& name);
// The word in brackets: "always [never] advise" gives "never".
std::string Chosen(const std::string& choices);
bool HasFlag(const std::string& cpuinfo, const std::string& flag);
PathFacts LookAt(const std::string& path);
// Whether a program listens at that port of 127.0.0.1.
bool PortTaken(int port);

}  // namespace hga

#endif  // HGA_CLIENT_DOCTOR_READ_MACHINE_H_
