// Answers the route requests of one worker: the one path behind ring, stream and in-process use.
#ifndef HGA_ROUTER_INDEX_ROUTE_ANSWERER_H_
#define HGA_ROUTER_INDEX_ROUTE_ANSWERER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/base/helpers.h"
#include "common/kv/route_message.h"
#include "router/index/select.h"
#include "router/index/summary_index.h"

namespace hga {

// Owned by the thread that serves the worker's ring or stream. `index` outlives it.
class RouteAnswerer {
 public:
  // threads: that select at a time, the caller's among them.
  RouteAnswerer(const SummaryIndex* index, uint64_t worker_id, const KvGeometry& geometry, const SelectOptions& options,
                uint32_t threads = 1)
      : index_(index), worker_id_(worker_id), geometry_(geometry), options_(options), helpers_(threads),
        scratch_(helpers_.threads()) {}

  // NOT_FOUND: a sequence is not open. FAILED_PRECONDITION: asked about chunks that are not indexed yet.
  absl::Status Answer(const RouteRequest& request, RouteResponse* response);
  // The same for an encoded request; the answer is in response() until the next call.
  absl::Status Answer(absl::Span<const uint8_t> message);

  const KvGeometry& geometry() const { return geometry_; }
  const RouteResponse& response() const { return response_; }
  // Since the last call.
  SelectTimes TakeTimes();

 private:
  absl::Status AnswerBlock(uint32_t layer, const RouteBlock& block, SelectScratch* scratch, Helpers* helpers,
                           std::vector<HeadSelection>* heads, std::vector<float>* missed);

  const SummaryIndex* const index_;
  const uint64_t worker_id_;
  const KvGeometry geometry_;
  const SelectOptions options_;
  Helpers helpers_;
  std::vector<SelectScratch> scratch_;  // [threads]
  std::vector<absl::Status> statuses_;  // of the blocks at hand
  RouteResponse response_;
};

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_ROUTE_ANSWERER_H_
