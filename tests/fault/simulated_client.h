// A client of the simulated store: what it may rely on.
#ifndef HGA_TESTS_FAULT_SIMULATED_CLIENT_H_
#define HGA_TESTS_FAULT_SIMULATED_CLIENT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/kv/ids.h"
#include "kv_store/store/block_store.h"

namespace hga {

struct SimulatedHold {
  ChunkHash chunk;
  uint32_t layer = 0;
  bool spoiled = false;  // its bytes were changed behind the store's back
  uint64_t heads = kAllHeads;  // that were asked for
};

struct SimulatedClient {
  ClientId id = 0;
  std::multimap<uint32_t, SimulatedHold> holds;  // slot -> what must be in it for as long
  std::vector<std::string> sessions;             // open, by id
};

}  // namespace hga

#endif  // HGA_TESTS_FAULT_SIMULATED_CLIENT_H_
