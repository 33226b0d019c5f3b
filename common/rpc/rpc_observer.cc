#include "common/rpc/rpc_observer.h"

#include <chrono>
#include <utility>

#include "absl/status/status.h"
#include "common/base/log.h"
#include "common/rpc/request_metadata.h"

namespace hga {
namespace {

using grpc::experimental::InterceptionHookPoints;

LogLevel LevelOf(grpc::StatusCode code, bool logged) {
  switch (code) {
    case grpc::StatusCode::OK:
      return logged ? LogLevel::kInfo : LogLevel::kDebug;
    case grpc::StatusCode::CANCELLED:  // how streams end when a side leaves
      return LogLevel::kDebug;
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::DATA_LOSS:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return LogLevel::kWarning;
    default:
      return LogLevel::kInfo;
  }
}

// One call.
class Observation : public grpc::experimental::Interceptor {
 public:
  Observation(std::string method, bool logged, RpcMetrics* metrics)
      : method_(std::move(method)), logged_(logged), metrics_(metrics) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      request_id_ = RequestIdIn(*methods->GetRecvInitialMetadata());
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      // What the service itself named the request.
      const auto* sent = methods->GetSendInitialMetadata();
      if (const auto id = sent->find(kRequestIdKey); id != sent->end()) request_id_ = id->second;
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) End(methods->GetSendStatus());
    methods->Proceed();
  }

 private:
  void End(const grpc::Status& status) {
    metrics_->Count(status.error_code());
    const LogLevel level = LevelOf(status.error_code(), logged_);
    if (!LogEnabled(level)) return;
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const std::string code = absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()));
    const RequestScope scope(request_id_);
    if (status.ok()) {
      Log(level, "call", {{"method", method_}, {"code", code}, {"seconds", seconds}});
    } else {
      Log(level, "call",
          {{"method", method_}, {"code", code}, {"seconds", seconds}, {"error", status.error_message()}});
    }
  }

  const std::string method_;
  const bool logged_;
  RpcMetrics* const metrics_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::string request_id_;
};

}  // namespace

RpcMetrics::RpcMetrics(std::shared_ptr<prometheus::Registry> registry) {
  MetricFactory make(std::move(registry));
  for (int i = 0; i < kCodes; ++i) {
    by_code_[i] = make.AddCounter("hga_rpcs_handled_total", "Calls answered, by the gRPC status that they ended with",
                                  {{"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(i))}});
  }
}

void RpcMetrics::Count(grpc::StatusCode code) {
  by_code_[code >= 0 && code < kCodes ? code : grpc::StatusCode::UNKNOWN]->Increment();
}

grpc::experimental::Interceptor* RpcObserver::CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) {
  const std::string path = info->method();
  const std::string method = path.substr(path.rfind('/') + 1);
  return new Observation(method, logged_.count(method) > 0, metrics_.get());
}

}  // namespace hga
