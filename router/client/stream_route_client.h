// RouteClient over a gRPC stream: for a router on another host, or where no ring can be mapped.
#ifndef HGA_ROUTER_CLIENT_STREAM_ROUTE_CLIENT_H_
#define HGA_ROUTER_CLIENT_STREAM_ROUTE_CLIENT_H_

#include <memory>

#include "grpcpp/completion_queue.h"
#include "router/client/remote_route_client.h"

namespace hga {

// The step thread drives the stream itself through a completion queue: no thread switch, and a bounded wait.
class StreamRouteClient : public RemoteRouteClient {
 public:
  static absl::StatusOr<std::unique_ptr<RouteClient>> Open(std::unique_ptr<RouterAttachment> attachment);
  ~StreamRouteClient() override;

  absl::Status Post(const RouteRequest& request) override;
  absl::Status Wait(RouteResponse* response) override;
  bool connected() const override { return attachment_->connected() && !broken_.load(); }

 private:
  explicit StreamRouteClient(std::unique_ptr<RouterAttachment> attachment);
  // Waits until nothing started on the stream is outstanding. UNAVAILABLE: the stream broke, or no event in time.
  absl::Status Drain();
  absl::Status Broken(const char* what);

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<router::v1::RouteEnvelope, router::v1::RouteEnvelope>> stream_;
  std::atomic<bool> broken_{false};

  // Owned by the step thread.
  int outstanding_ = 0;
  router::v1::RouteEnvelope sent_, received_;
  const RouteRequest* posted_ = nullptr;
};

}  // namespace hga

#endif  // HGA_ROUTER_CLIENT_STREAM_ROUTE_CLIENT_H_
