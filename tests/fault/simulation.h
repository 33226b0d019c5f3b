// A BlockStore driven by a seed against a model of what it must be.
//
// Everything happens on the caller's thread: clients' calls, disk work at moments the seed chooses, disks that fail,
// lie and die, clocks that jump, crashes. Every other seed has packed blocks in RAM before its disk, every third a disk
// budget. The model knows what was said to clients and what was acknowledged.
#ifndef HGA_TESTS_FAULT_SIMULATION_H_
#define HGA_TESTS_FAULT_SIMULATION_H_

#include <cstdint>
#include <string>

namespace hga {

struct SimulationOptions {
  uint64_t seed = 0;
  uint32_t steps = 400;
  bool trace = false;  // each operation to stderr
};

struct SimulationCounts {
  uint64_t commits = 0, fetched_ram = 0, fetched_disk = 0, data_loss = 0, failed_writes = 0, damaged_blocks = 0,
           crashes = 0, restarts = 0, refused = 0, durable = 0, fetched_packed = 0, reads_of_heads = 0, given_up = 0,
           lapsed_pins = 0;
};

// Empty: the store did as it must. Else what it did wrong, and at which step.
std::string RunSimulation(const SimulationOptions& options, SimulationCounts* counts);

}  // namespace hga

#endif  // HGA_TESTS_FAULT_SIMULATION_H_
