// The answer when no router is asked: every key of the range, for every token.
#ifndef HGA_ROUTER_CLIENT_DENSE_ROUTE_CLIENT_H_
#define HGA_ROUTER_CLIENT_DENSE_ROUTE_CLIENT_H_

#include "common/kv/geometry.h"
#include "router/client/route_client.h"

namespace hga {

// Never fails; counts no exchanges.
class DenseRouteClient : public RouteClient {
 public:
  explicit DenseRouteClient(const KvGeometry& geometry) : geometry_(geometry) {}

  absl::StatusOr<uint32_t> OpenSequence(uint64_t, absl::Span<const ChunkHash> chunks) override {
    return static_cast<uint32_t>(chunks.size());
  }
  absl::Status AppendSummary(uint64_t, uint32_t, const ChunkHash&, const std::string&) override {
    return absl::OkStatus();
  }
  void CloseSequence(uint64_t) override {}
  absl::Status Post(const RouteRequest& request) override {
    posted_ = &request;
    return absl::OkStatus();
  }
  absl::Status Wait(RouteResponse* response) override;
  bool connected() const override { return true; }
  absl::StatusOr<RouterStats> GetStats() override { return RouterStats(); }
  RouteCounters counters() const override { return {}; }

 private:
  const KvGeometry geometry_;
  const RouteRequest* posted_ = nullptr;  // owned by the step thread; nullptr: nothing under way
};

}  // namespace hga

#endif  // HGA_ROUTER_CLIENT_DENSE_ROUTE_CLIENT_H_
