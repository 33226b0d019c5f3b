// Gives the room of what was deleted back to the file system.
#ifndef HGA_KV_STORE_TOOL_COMPACT_H_
#define HGA_KV_STORE_TOOL_COMPACT_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace hga {

// Rewrites every column family of the database, blob files with anything dead in them included, under the options
// that it was last opened with. (bytes before, bytes after). FAILED_PRECONDITION: a process has it open.
absl::StatusOr<std::pair<uint64_t, uint64_t>> CompactStore(const std::string& folder);

}  // namespace hga

#endif  // HGA_KV_STORE_TOOL_COMPACT_H_
