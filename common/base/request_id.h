// The name that one request has in the logs of all daemons.
//
// The worker takes it from its caller or makes it; it travels to kv_store and the router in gRPC's metadata
// (common/rpc/request_metadata.h) and is printed by Log on whatever a thread does in its name.
#ifndef HGA_COMMON_BASE_REQUEST_ID_H_
#define HGA_COMMON_BASE_REQUEST_ID_H_

#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace hga {

// 16 hexadecimal digits, random. Thread-safe.
std::string NewRequestId();
// 1 to 128 of [A-Za-z0-9._,-]; a comma between the ids of requests that are computed together.
bool IsRequestId(absl::string_view id);
// Both names, or the first alone where both are too long for one. Either may be empty.
std::string JoinRequestIds(std::string ids, absl::string_view more);

// Of the scope that the calling thread is in; empty: none.
const std::string& CurrentRequestId();

// While it lives the calling thread works for this request. Scopes nest.
class RequestScope {
 public:
  explicit RequestScope(std::string id);
  ~RequestScope();
  RequestScope(const RequestScope&) = delete;
  RequestScope& operator=(const RequestScope&) = delete;

 private:
  std::string outer_;
};

}  // namespace hga

#endif  // HGA_COMMON_BASE_REQUEST_ID_H_
