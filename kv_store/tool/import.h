// Session files into a store: into its folder, or through the kv_store that serves it.
#ifndef HGA_KV_STORE_TOOL_IMPORT_H_
#define HGA_KV_STORE_TOOL_IMPORT_H_

#include <string>

#include "absl/status/statusor.h"
#include "kv_store/client/kv_client.h"
#include "kv_store/tier/kv_tier.h"
#include "kv_store/tool/progress.h"
#include "kv_store/tool/session_file.h"

namespace hga {

// Both give the name that the session has in the store: `as`, or the file's own where that is empty. It appears last,
// as a whole. ALREADY_EXISTS: the name is taken. FAILED_PRECONDITION: the store has K/V of another shape. `progress`
// counts chunks. What a failure leaves are chunks of no session, which kv_store deletes.
absl::StatusOr<std::string> ImportSession(KvTier* tier, const std::string& as, SessionFileReader* file,
                                          const Progress& progress);

// As a worker would write it: what the store has already is not sent, and a store that is short of room is given a
// minute for each chunk, then RESOURCE_EXHAUSTED. FAILED_PRECONDITION also: the file has a chunk without K/V, which
// only a stopped store takes.
absl::StatusOr<std::string> ImportSession(KvClient* store, const std::string& as, SessionFileReader* file,
                                          const Progress& progress);

}  // namespace hga

#endif  // HGA_KV_STORE_TOOL_IMPORT_H_
