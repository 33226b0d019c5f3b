// Counts and logs every call that a daemon answers, whatever its service.
#ifndef HGA_COMMON_RPC_RPC_OBSERVER_H_
#define HGA_COMMON_RPC_RPC_OBSERVER_H_

#include <array>
#include <memory>
#include <set>
#include <string>

#include "common/metrics/metric_factory.h"
#include "grpcpp/support/server_interceptor.h"
#include "grpcpp/support/status.h"

namespace hga {

// Calls answered, by the status that they ended with. Thread-safe.
class RpcMetrics {
 public:
  explicit RpcMetrics(std::shared_ptr<prometheus::Registry> registry);
  void Count(grpc::StatusCode code);

 private:
  static constexpr int kCodes = 17;
  std::array<prometheus::Counter*, kCodes> by_code_;
};

// One line per call: at info where it is one of `logged`, at debug otherwise; what failed through a fault of ours or
// for want of room at warning, for other reasons at info.
class RpcObserver : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  // logged: names of methods ("OpenSession").
  RpcObserver(std::shared_ptr<RpcMetrics> metrics, std::set<std::string> logged)
      : metrics_(std::move(metrics)), logged_(std::move(logged)) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override;

 private:
  const std::shared_ptr<RpcMetrics> metrics_;
  const std::set<std::string> logged_;
};

}  // namespace hga

#endif  // HGA_COMMON_RPC_RPC_OBSERVER_H_
