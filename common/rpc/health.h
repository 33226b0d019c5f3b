// Client side of grpc.health.v1, which every daemon serves.
#ifndef HGA_COMMON_RPC_HEALTH_H_
#define HGA_COMMON_RPC_HEALTH_H_

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/channel.h"

namespace hga {

// OK: serves. UNAVAILABLE: nothing answers, or what answers does not serve yet or any more.
absl::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel, std::chrono::milliseconds timeout);

// Asks until the daemon at `address` serves; gives up after `wait`, with the last answer. `wait` 0: asks once.
absl::Status WaitHealthy(const std::string& address, std::chrono::milliseconds wait);

}  // namespace hga

#endif  // HGA_COMMON_RPC_HEALTH_H_
