#include "router/client/attach_router.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "router/client/ring_route_client.h"
#include "router/client/router_attachment.h"
#include "router/client/stream_route_client.h"

namespace hga {
namespace {

bool OnThisHost(const std::string& address) {
  for (const char* prefix : {"unix:", "localhost:", "127.0.0.1:", "[::1]:"}) {
    if (absl::StartsWith(address, prefix)) return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<RouteClient>> AttachRing(const RouteAttachOptions& options) {
  HGA_ASSIGN_OR_RETURN(auto attachment, RouterAttachment::Start(options, /*want_ring=*/true));
  auto client = RingRouteClient::Open(std::move(attachment));
  if (client.ok()) return client;
  return absl::FailedPreconditionError(absl::StrCat("no ring to the router: ", client.status().message()));
}

absl::StatusOr<std::unique_ptr<RouteClient>> AttachStream(const RouteAttachOptions& options) {
  HGA_ASSIGN_OR_RETURN(auto attachment, RouterAttachment::Start(options, /*want_ring=*/false));
  return StreamRouteClient::Open(std::move(attachment));
}

}  // namespace

absl::StatusOr<RouteTransport> ParseRouteTransport(absl::string_view name) {
  if (name == "auto") return RouteTransport::kAuto;
  if (name == "ring") return RouteTransport::kRing;
  if (name == "stream") return RouteTransport::kStream;
  return absl::InvalidArgumentError(absl::StrCat("router transport '", name, "': must be auto, ring or stream"));
}

absl::StatusOr<std::unique_ptr<RouteClient>> AttachRouter(const RouteAttachOptions& options) {
  HGA_RETURN_IF_ERROR(options.geometry.Validate());
  if (options.transport == RouteTransport::kRing) return AttachRing(options);
  if (options.transport == RouteTransport::kAuto && OnThisHost(options.address)) {
    auto client = AttachRing(options);
    if (client.status().code() != absl::StatusCode::kFailedPrecondition &&
        client.status().code() != absl::StatusCode::kResourceExhausted) {
      return client;
    }
    LogWarning("no ring, using the stream", {{"error", client.status().message()}});
  }
  return AttachStream(options);
}

}  // namespace hga
