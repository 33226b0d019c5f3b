// The workers that are attached to the router.
#ifndef HGA_ROUTER_SERVICE_WORKER_TABLE_H_
#define HGA_ROUTER_SERVICE_WORKER_TABLE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/kv/summary.h"
#include "proto/router/v1/router.pb.h"
#include "router/service/ring_server.h"

namespace hga {

struct RouterServiceOptions {
  std::string ring_dir = "/dev/shm";
  int spin_us = 0;
  SelectOptions select;
  uint32_t threads = 1;  // that select at a time, for each worker
};

struct Worker {
  uint64_t id = 0;
  std::string name;
  KvGeometry geometry;
  const SummaryMethod* method = nullptr;
  std::unique_ptr<RingServer> ring;  // nullptr: none wanted
};

// Thread-safe.
class WorkerTable {
 public:
  WorkerTable(const RouterServiceOptions& options, SummaryIndex* index, RouterMetrics* metrics);

  // INVALID_ARGUMENT: geometry, method or ring size. RESOURCE_EXHAUSTED: too many workers, or no room for the ring.
  absl::StatusOr<std::shared_ptr<const Worker>> Add(const router::v1::AttachRequest& request);
  // Drops the worker, its ring and its sequences.
  void Remove(uint64_t worker_id);
  // NOT_FOUND: not attached (any more).
  absl::StatusOr<std::shared_ptr<const Worker>> Find(uint64_t worker_id) const;
  std::unique_ptr<RouteAnswerer> NewAnswerer(const Worker& worker) const;
  // How answerers select, if a worker could do the same.
  void FillRules(router::v1::Attached* attached) const;

 private:
  const RouterServiceOptions options_;
  SummaryIndex* const index_;
  RouterMetrics* const metrics_;
  mutable std::mutex mu_;
  // Guarded by mu_.
  uint64_t next_id_;
  absl::flat_hash_map<uint64_t, std::shared_ptr<const Worker>> workers_;
};

}  // namespace hga

#endif  // HGA_ROUTER_SERVICE_WORKER_TABLE_H_
