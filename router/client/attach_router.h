// Joins a router: the one place that chooses between ring and stream.
#ifndef HGA_ROUTER_CLIENT_ATTACH_ROUTER_H_
#define HGA_ROUTER_CLIENT_ATTACH_ROUTER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/kv/geometry.h"
#include "router/client/route_client.h"

namespace hga {

enum class RouteTransport {
  kAuto,    // the ring if the address is of this host and the ring can be mapped, else the stream
  kRing,    // FAILED_PRECONDITION if the ring cannot be mapped
  kStream,
};

// "auto", "ring" or "stream"; INVALID_ARGUMENT otherwise.
absl::StatusOr<RouteTransport> ParseRouteTransport(absl::string_view name);

struct RouteAttachOptions {
  std::string address;  // "unix:/path" or "host:port"
  KvGeometry geometry;
  std::string method = "sketch";
  std::string channel_energies;  // of the model, for a method that deals out bits
  std::string worker_name = "gpu_worker";
  RouteTransport transport = RouteTransport::kAuto;
  uint64_t max_message_bytes = uint64_t{16} << 20;  // largest request or response
  int spin_us = 0;                                 // how long Wait polls before it sleeps; 0 unless a core is spare
  absl::Duration timeout = absl::Seconds(5);       // for attaching, for an answer, for control calls
};

// UNAVAILABLE: no router there (ask again later). INVALID_ARGUMENT: the router refused the geometry or the method.
absl::StatusOr<std::unique_ptr<RouteClient>> AttachRouter(const RouteAttachOptions& options);

}  // namespace hga

#endif  // HGA_ROUTER_CLIENT_ATTACH_ROUTER_H_
