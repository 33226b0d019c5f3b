// Client side of a connection between daemons.
#ifndef HGA_COMMON_RPC_CHANNEL_H_
#define HGA_COMMON_RPC_CHANNEL_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/channel.h"

namespace hga {

// "unix:/path/to.sock" or "host:port". INVALID_ARGUMENT: a Unix path over 107 characters, or no port.
absl::Status ValidateAddress(const std::string& address);
// Message sizes are bounded (64 MiB); reconnects within a second.
std::shared_ptr<grpc::Channel> Connect(const std::string& address);

}  // namespace hga

#endif  // HGA_COMMON_RPC_CHANNEL_H_
