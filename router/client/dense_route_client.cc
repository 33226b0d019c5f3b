#include "router/client/dense_route_client.h"

#include <utility>

namespace hga {

absl::Status DenseRouteClient::Wait(RouteResponse* response) {
  if (posted_ == nullptr) return absl::FailedPreconditionError("Wait without Post");
  const RouteRequest& request = *std::exchange(posted_, nullptr);
  response->step = request.step;
  response->layer = request.layer;
  response->blocks.resize(request.blocks.size());
  response->missed.assign(request.blocks.size(), {});  // nothing is
  for (size_t b = 0; b < request.blocks.size(); ++b) {
    const RouteBlock& block = request.blocks[b];
    response->blocks[b].resize(geometry_.kv_heads);
    for (HeadSelection& head : response->blocks[b]) SelectAll(geometry_, block, &head);
  }
  return absl::OkStatus();
}

}  // namespace hga
