// Asks grpc.health.v1 of a daemon.
#ifndef HGA_TESTS_SUPPORT_HEALTH_H_
#define HGA_TESTS_SUPPORT_HEALTH_H_

#include <memory>

#include "grpcpp/channel.h"

namespace hga {

bool IsServing(const std::shared_ptr<grpc::Channel>& channel);

}  // namespace hga

#endif  // HGA_TESTS_SUPPORT_HEALTH_H_
