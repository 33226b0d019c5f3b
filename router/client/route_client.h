// The worker's way to the router. Implementations: ring_route_client.h (shared memory), stream_route_client.h (gRPC),
// dense_route_client.h (selects everything: no router needed), local_route_client.h (in process, for tests).
// All give bit-identical selections for the same index.
#ifndef HGA_ROUTER_CLIENT_ROUTE_CLIENT_H_
#define HGA_ROUTER_CLIENT_ROUTE_CLIENT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/ids.h"
#include "common/kv/route_message.h"

namespace hga {

struct RouteCounters {
  uint64_t exchanges = 0;  // Post/Wait pairs
  uint64_t rpcs = 0;       // control RPCs (open, append, close)
};

// What the router as a whole holds and has done.
struct RouterStats {
  uint64_t sequences = 0, chunks = 0, index_bytes = 0, selections = 0;
};

// What decides, beside the summaries, what is selected (router/index/select.h): who knows it can select as the router
// does, bit for bit.
struct SelectRules {
  uint32_t overprovision = 0, scan_chunks = 0;
};

// Post and Wait belong to the step thread; the other calls may come from any thread.
// UNAVAILABLE means the router is gone: the caller goes on with DenseRouteClient and may attach again later.
class RouteClient {
 public:
  virtual ~RouteClient() = default;

  // Returns how many of `chunks` the router has summaries of, as a prefix.
  virtual absl::StatusOr<uint32_t> OpenSequence(uint64_t sequence_id, absl::Span<const ChunkHash> chunks) = 0;
  // data: summary data of one chunk (common/kv/summary.h). Returns when later selections see it.
  virtual absl::Status AppendSummary(uint64_t sequence_id, uint32_t chunk_index, const ChunkHash& chunk,
                                     const std::string& data) = 0;
  virtual void CloseSequence(uint64_t sequence_id) = 0;

  // Starts the exchange for one layer; at most one is under way. The request's pointers stay valid until Wait returns.
  virtual absl::Status Post(const RouteRequest& request) = 0;
  // Waits for the answer to the last Post. `response` is reused between calls to save allocations.
  virtual absl::Status Wait(RouteResponse* response) = 0;

  virtual bool connected() const = 0;
  // Constant. nullopt: nobody can select in its place.
  virtual std::optional<SelectRules> rules() const { return std::nullopt; }
  virtual RouteCounters counters() const = 0;
  // One RPC where there is a router; zeros where there is none.
  virtual absl::StatusOr<RouterStats> GetStats() = 0;
};

}  // namespace hga

#endif  // HGA_ROUTER_CLIENT_ROUTE_CLIENT_H_
