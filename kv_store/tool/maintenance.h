// What can be done to a store beside kv_store: look at all of it, carry sessions out and in.
#ifndef HGA_KV_STORE_TOOL_MAINTENANCE_H_
#define HGA_KV_STORE_TOOL_MAINTENANCE_H_

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv_store/tier/kv_tier.h"

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

// (chunks looked at, chunks in all)
using Progress = std::function<void(uint64_t, uint64_t)>;

// Counts. `read_blocks`: also reads every block and summary and checks each against its checksum.
absl::StatusOr<StoreReport> InspectStore(KvTier* tier, bool read_blocks, const Progress& progress);

// A session as one file: 8 bytes "HGASESS1", then frames of a length (u64, little endian) and so many bytes:
//
//   geometry record, session record; for each chunk of the session: chunk record, and, if it has checksums,
//   summary record and for each layer header and data of its block
//
// Records and blocks are as in tier/record_codec.h, with version and checksum each.
// NOT_FOUND: no such session. DATA_LOSS: it is damaged, nothing useful was written.
absl::Status ExportSession(KvTier* tier, const std::string& name, std::ostream* out);

// Everything in the file is checked before it is believed: INVALID_ARGUMENT or DATA_LOSS for what is no such file.
// `as`: another name, unless empty. ALREADY_EXISTS: the name is taken. FAILED_PRECONDITION: the store has K/V of
// another shape. A failure on the way leaves chunks of no session at most.
absl::StatusOr<std::string> ImportSession(KvTier* tier, const std::string& as, std::istream* in);

}  // namespace hga

#endif  // HGA_KV_STORE_TOOL_MAINTENANCE_H_
