// The router's end of one worker's ring, with the thread that answers on it.
#ifndef HGA_ROUTER_SERVICE_RING_SERVER_H_
#define HGA_ROUTER_SERVICE_RING_SERVER_H_

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/shm/ring.h"
#include "router/index/route_answerer.h"
#include "router/service/router_metrics.h"

namespace hga {

// Removes the rings that routers which do not run any more left in `ring_dir`.
void RemoveStaleRings(const std::string& ring_dir);

// Owned by its worker's entry. Destroying it closes the ring, ends the thread and removes the file.
class RingServer {
 public:
  static absl::StatusOr<std::unique_ptr<RingServer>> Start(const std::string& ring_dir, uint64_t worker_id,
                                                           uint64_t slot_bytes, int spin_us,
                                                           std::unique_ptr<RouteAnswerer> answerer,
                                                           RouterMetrics* metrics);
  ~RingServer();

  const std::string& path() const { return path_; }
  uint64_t slot_bytes() const { return ring_.slot_bytes(); }

 private:
  RingServer(std::string path, ServerRing ring, std::unique_ptr<RouteAnswerer> answerer, RouterMetrics* metrics);
  void Loop();
  void AnswerOne(absl::Span<const uint8_t> request);

  const std::string path_;
  ServerRing ring_;
  const std::unique_ptr<RouteAnswerer> answerer_;  // used by thread_ only
  RouterMetrics* const metrics_;
  std::thread thread_;
};

}  // namespace hga

#endif  // HGA_ROUTER_SERVICE_RING_SERVER_H_
