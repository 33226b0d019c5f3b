// Answers the route requests of one worker: the one path behind ring, stream and in-process use.
#ifndef HGA_ROUTER_INDEX_ROUTE_ANSWERER_H_
#define HGA_ROUTER_INDEX_ROUTE_ANSWERER_H_

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/kv/route_message.h"
#include "router/index/select.h"
#include "router/index/summary_index.h"

namespace hga {

// Owned by the thread that serves the worker's ring or stream. `index` outlives it.
class RouteAnswerer {
 public:
  RouteAnswerer(const SummaryIndex* index, uint64_t worker_id, const KvGeometry& geometry, const SelectOptions& options)
      : index_(index), worker_id_(worker_id), geometry_(geometry), options_(options) {}

  // NOT_FOUND: a sequence is not open. FAILED_PRECONDITION: asked about chunks that are not indexed yet.
  absl::Status Answer(const RouteRequest& request, RouteResponse* response);
  // The same for an encoded request; the answer is in response() until the next call.
  absl::Status Answer(absl::Span<const uint8_t> message);

  const KvGeometry& geometry() const { return geometry_; }
  const RouteResponse& response() const { return response_; }
  // Since the last call.
  SelectTimes TakeTimes() { return std::exchange(scratch_.times, SelectTimes()); }

 private:
  absl::Status AnswerBlock(uint32_t layer, const RouteBlock& block, std::vector<HeadSelection>* heads,
                           std::vector<float>* missed);

  const SummaryIndex* const index_;
  const uint64_t worker_id_;
  const KvGeometry geometry_;
  const SelectOptions options_;
  SelectScratch scratch_;
  RouteResponse response_;
};

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_ROUTE_ANSWERER_H_
