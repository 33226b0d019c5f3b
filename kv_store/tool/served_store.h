// What the tool asks of a kv_store that serves the store.
#ifndef HGA_KV_STORE_TOOL_SERVED_STORE_H_
#define HGA_KV_STORE_TOOL_SERVED_STORE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "kv_store/tool/progress.h"
#include "kv_store/tool/session_file.h"

namespace hga {

// (bytes on disk before, after). `progress` counts bytes.
absl::StatusOr<std::pair<uint64_t, uint64_t>> CompactServed(const std::string& address, const Progress& progress);

// As import.h; when it returns OK the session is on disk. UNAVAILABLE with "is imported" in it: it is in the store, but
// the disk has not taken all of it yet.
absl::StatusOr<std::string> ImportServed(const std::string& address, const std::string& as, SessionFileReader* file,
                                         const Progress& progress);

}  // namespace hga

#endif  // HGA_KV_STORE_TOOL_SERVED_STORE_H_
