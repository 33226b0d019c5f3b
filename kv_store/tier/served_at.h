// Where the kv_store that has a store's folder open can be asked: a file beside the database, of its owner alone.
#ifndef HGA_KV_STORE_TIER_SERVED_AT_H_
#define HGA_KV_STORE_TIER_SERVED_AT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hga {

// By who has the folder's lock. A relative path of a Unix socket is made absolute.
absl::Status WriteServedAt(const std::string& data_dir, const std::string& address);
void RemoveServedAt(const std::string& data_dir);
// Says something only while the folder is locked: a killed kv_store leaves the file behind. NOT_FOUND: it says nothing.
absl::StatusOr<std::string> ReadServedAt(const std::string& data_dir);

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_SERVED_AT_H_
