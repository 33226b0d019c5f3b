// RouteClient that selects on the device for the tokens of answers, where the summaries of a sequence are there, and
// asks the router for all else in the same exchange. The router stays the owner of the index: it is told of everything
// first, and what it does not know is not selected from here either.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_ROUTE_CLIENT_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_ROUTE_CLIENT_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/route_mirror.h"
#include "router/client/route_client.h"

namespace hga {

// As RouteClient. A thread of its own reads the summaries of what the router knew already when a sequence was opened.
class DeviceRouteClient : public RouteClient {
 public:
  // router: with rules. method: of the summaries, one that the mirror takes. Both it and the mirror must outlive the
  // client. source: empty: only what is appended is mirrored.
  DeviceRouteClient(std::unique_ptr<RouteClient> router, RouteMirror* mirror, const SummaryMethod* method,
                    SummarySource source);
  ~DeviceRouteClient() override;

  absl::StatusOr<uint32_t> OpenSequence(uint64_t sequence_id, absl::Span<const ChunkHash> chunks) override;
  absl::Status AppendSummary(uint64_t sequence_id, uint32_t chunk_index, const ChunkHash& chunk,
                             const std::string& data) override;
  void CloseSequence(uint64_t sequence_id) override;
  absl::Status Post(const RouteRequest& request) override;
  absl::Status Wait(RouteResponse* response) override;
  bool connected() const override { return router_->connected(); }
  std::optional<SelectRules> rules() const override { return rules_; }
  RouteCounters counters() const override { return router_->counters(); }
  absl::StatusOr<RouterStats> GetStats() override { return router_->GetStats(); }

  // Blocks until the thread has nothing left to read. For tests.
  void WaitUntilRead();

 private:
  // What the router knows of one.
  struct Sequence {
    std::vector<ChunkHash> chunks;
    std::vector<uint32_t> pages;  // of the chunks; SummaryPages::kNone: not mirrored
    uint32_t ready = 0;           // chunks from the first on that lie on the device
  };

  void ReadLoop();
  void ReadMissing(uint64_t sequence_id);
  std::vector<ChunkHash> MissingOf(uint64_t sequence_id);
  void Adopt(uint64_t sequence_id, const ChunkHash& chunk, uint32_t page);
  void Drop(uint64_t sequence_id);
  bool StartOnDevice(const RouteRequest& request, const RouteBlock& block, absl::Status* status);
  bool FillPages(const RouteBlock& block, uint32_t number);

  // Constant after construction.
  const std::unique_ptr<RouteClient> router_;
  const SelectRules rules_;
  RouteMirror* const mirror_;
  const SummaryMethod* const method_;
  const SummarySource source_;

  std::mutex mu_;
  std::condition_variable changed_;
  // Guarded by mu_.
  absl::flat_hash_map<uint64_t, Sequence> sequences_;
  std::deque<uint64_t> to_read_;
  bool reading_ = false, stopping_ = false;

  // Step thread only.
  const RouteRequest* posted_ = nullptr;
  RouteRequest forwarded_;           // blocks that the router answers
  RouteResponse answered_;           // to those
  std::vector<bool> on_device_;      // [blocks of posted_]
  uint32_t started_ = 0;             // blocks that the device has under way
  bool asked_router_ = false;

  std::thread thread_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_DEVICE_ROUTE_CLIENT_H_
