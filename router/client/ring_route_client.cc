#include "router/client/ring_route_client.h"

#include <utility>

#include "common/base/status.h"

namespace hga {

absl::StatusOr<std::unique_ptr<RouteClient>> RingRouteClient::Open(std::unique_ptr<RouterAttachment> attachment) {
  if (attachment->attached().ring_path().empty()) return absl::FailedPreconditionError("the router offers no ring");
  HGA_ASSIGN_OR_RETURN(ClientRing ring,
                       ClientRing::Open(attachment->attached().ring_path(), attachment->attached().ring_slot_bytes(),
                                        attachment->options().spin_us));
  return std::unique_ptr<RouteClient>(new RingRouteClient(std::move(attachment), std::move(ring)));
}

RingRouteClient::RingRouteClient(std::unique_ptr<RouterAttachment> attachment, ClientRing ring)
    : RemoteRouteClient(std::move(attachment)), ring_(std::move(ring)) {
  attachment_->NotifyEnd([this] { ring_.Close(); });
}

// Before the ring: the attachment's thread closes it.
RingRouteClient::~RingRouteClient() { attachment_.reset(); }

absl::Status RingRouteClient::Post(const RouteRequest& request) {
  HGA_RETURN_IF_ERROR(ring_.Post(
      [&](absl::Span<uint8_t> slot) { return EncodeRouteRequest(options().geometry, request, slot); }));
  posted_ = &request;
  ++exchanges_;
  return absl::OkStatus();
}

absl::Status RingRouteClient::Wait(RouteResponse* response) {
  if (posted_ == nullptr) return absl::FailedPreconditionError("Wait without Post");
  const RouteRequest& request = *std::exchange(posted_, nullptr);
  return ring_.Wait(options().timeout, [&](absl::Span<const uint8_t> message) -> absl::Status {
    HGA_ASSIGN_OR_RETURN(*response, DecodeRouteResponse(options().geometry, request, message));
    return absl::OkStatus();
  });
}

}  // namespace hga
