// Request ids (common/base/request_id.h) in gRPC's metadata.
#ifndef HGA_COMMON_RPC_REQUEST_METADATA_H_
#define HGA_COMMON_RPC_REQUEST_METADATA_H_

#include <map>
#include <string>

#include "common/base/request_id.h"
#include "grpcpp/client_context.h"
#include "grpcpp/server_context.h"

namespace hga {

inline constexpr char kRequestIdKey[] = "x-request-id";

// Names the calling thread's request in a call that is about to be made.
inline void SendRequestId(grpc::ClientContext* context) {
  if (!CurrentRequestId().empty()) context->AddMetadata(kRequestIdKey, CurrentRequestId());
}

// The valid id among metadata that was received; empty: there is none.
inline std::string RequestIdIn(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata) {
  const auto found = metadata.find(kRequestIdKey);
  if (found == metadata.end()) return "";
  std::string id(found->second.data(), found->second.size());
  return IsRequestId(id) ? id : "";
}

inline std::string ReceivedRequestId(const grpc::ServerContextBase& context) {
  return RequestIdIn(context.client_metadata());
}

}  // namespace hga

#endif  // HGA_COMMON_RPC_REQUEST_METADATA_H_
