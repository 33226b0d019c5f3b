// RouteClient over a ring in shared memory, for a router on the same host.
#ifndef HGA_ROUTER_CLIENT_RING_ROUTE_CLIENT_H_
#define HGA_ROUTER_CLIENT_RING_ROUTE_CLIENT_H_

#include <memory>

#include "common/shm/ring.h"
#include "router/client/remote_route_client.h"

namespace hga {

class RingRouteClient : public RemoteRouteClient {
 public:
  // `attachment` was started with a ring. FAILED_PRECONDITION or NOT_FOUND: its ring cannot be mapped from here.
  static absl::StatusOr<std::unique_ptr<RouteClient>> Open(std::unique_ptr<RouterAttachment> attachment);
  ~RingRouteClient() override;

  absl::Status Post(const RouteRequest& request) override;
  absl::Status Wait(RouteResponse* response) override;
  bool connected() const override { return attachment_->connected() && !ring_.closed(); }

 private:
  RingRouteClient(std::unique_ptr<RouterAttachment> attachment, ClientRing ring);

  ClientRing ring_;                       // closed by the attachment's thread when the router is gone
  const RouteRequest* posted_ = nullptr;  // owned by the step thread
};

}  // namespace hga

#endif  // HGA_ROUTER_CLIENT_RING_ROUTE_CLIENT_H_
