// Looks at all of a store, beside kv_store.
#ifndef HGA_KV_STORE_TOOL_MAINTENANCE_H_
#define HGA_KV_STORE_TOOL_MAINTENANCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kv_store/tier/kv_tier.h"
#include "kv_store/tool/progress.h"

namespace hga {

struct StoreReport {
  uint64_t sessions = 0, tokens = 0;
  uint64_t chunks = 0;              // with their blocks
  uint64_t chunks_to_compute = 0;   // of sessions, whose token ids are there and whose blocks are not
  uint64_t chunks_of_no_session = 0;  // kv_store deletes these when it starts
  uint64_t blocks = 0, block_bytes = 0;
  uint64_t disk_bytes = 0;
  std::vector<std::string> problems;  // what is damaged or missing, the first 100
  uint64_t problem_count = 0;
  uint64_t unreadable = 0;  // of these, that the disk did not give: damaged or, in a store that is served, moved
};

// Counts. `read_blocks`: also reads every block and summary and checks each against its checksum.
absl::StatusOr<StoreReport> InspectStore(KvTier* tier, bool read_blocks, const Progress& progress);

}  // namespace hga

#endif  // HGA_KV_STORE_TOOL_MAINTENANCE_H_
