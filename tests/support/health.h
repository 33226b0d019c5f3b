// What every daemon answers besides its own service: reflection, metrics.
#ifndef HGA_TESTS_SUPPORT_HEALTH_H_
#define HGA_TESTS_SUPPORT_HEALTH_H_

#include <memory>
#include <string>
#include <vector>

#include "grpcpp/channel.h"

namespace hga {

// Names of the services that reflection lists.
std::vector<std::string> ListServices(const std::shared_ptr<grpc::Channel>& channel);

// A TCP port of 127.0.0.1 that was free a moment ago.
int FreePort();
// The answer to GET /metrics at that port, or empty.
std::string ScrapeMetrics(int port);

}  // namespace hga

#endif  // HGA_TESTS_SUPPORT_HEALTH_H_
