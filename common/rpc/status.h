// The one place where absl::Status meets gRPC's.
#ifndef HGA_COMMON_RPC_STATUS_H_
#define HGA_COMMON_RPC_STATUS_H_

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace hga {

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace hga

#endif  // HGA_COMMON_RPC_STATUS_H_
