// A router in the caller's process: the same index and the same selection, without messages. For tests.
#ifndef HGA_ROUTER_CLIENT_LOCAL_ROUTE_CLIENT_H_
#define HGA_ROUTER_CLIENT_LOCAL_ROUTE_CLIENT_H_

#include <atomic>
#include <memory>
#include <string>

#include "common/kv/geometry.h"
#include "common/kv/summary.h"
#include "router/client/route_client.h"
#include "router/index/select.h"

namespace hga {

class RouteAnswerer;
class SummaryIndex;

class LocalRouteClient : public RouteClient {
 public:
  LocalRouteClient(const KvGeometry& geometry, const SummaryMethod* method, const SelectOptions& options = {});
  ~LocalRouteClient() override;

  absl::StatusOr<uint32_t> OpenSequence(uint64_t sequence_id, absl::Span<const ChunkHash> chunks) override;
  absl::Status AppendSummary(uint64_t sequence_id, uint32_t chunk_index, const ChunkHash& chunk,
                             const std::string& data) override;
  void CloseSequence(uint64_t sequence_id) override;
  absl::Status Post(const RouteRequest& request) override;
  absl::Status Wait(RouteResponse* response) override;
  bool connected() const override { return true; }
  std::optional<SelectRules> rules() const override;
  absl::StatusOr<RouterStats> GetStats() override { return RouterStats(); }
  RouteCounters counters() const override { return {exchanges_.load(), rpcs_.load()}; }

 private:
  const KvGeometry geometry_;
  const SummaryMethod* const method_;
  const SelectOptions options_;
  const std::unique_ptr<SummaryIndex> index_;
  const std::unique_ptr<RouteAnswerer> answerer_;
  std::atomic<uint64_t> exchanges_{0}, rpcs_{0};
  const RouteRequest* posted_ = nullptr;  // owned by the step thread
};

}  // namespace hga

#endif  // HGA_ROUTER_CLIENT_LOCAL_ROUTE_CLIENT_H_
