// A worker's life at a router: the Attach stream and the control calls that go beside it.
#ifndef HGA_ROUTER_CLIENT_ROUTER_ATTACHMENT_H_
#define HGA_ROUTER_CLIENT_ROUTER_ATTACHMENT_H_

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/ids.h"
#include "proto/router/v1/router.grpc.pb.h"
#include "router/client/attach_router.h"

namespace hga {

// Owned by one route client. Calls are thread-safe. A thread of its own reads the stream until it ends.
class RouterAttachment {
 public:
  // Waits for the router's answer at most options.timeout.
  static absl::StatusOr<std::unique_ptr<RouterAttachment>> Start(const RouteAttachOptions& options, bool want_ring);
  ~RouterAttachment();

  // `on_end` is called once, when the stream ends (at once if it has), from this object's thread or the caller's.
  void NotifyEnd(std::function<void()> on_end);
  bool connected() const { return connected_.load(); }

  absl::StatusOr<uint32_t> OpenSequence(uint64_t sequence_id, absl::Span<const ChunkHash> chunks);
  absl::Status AppendSummary(uint64_t sequence_id, uint32_t chunk_index, const ChunkHash& chunk,
                             const std::string& data);
  void CloseSequence(uint64_t sequence_id);
  absl::StatusOr<RouterStats> GetStats();

  router::v1::Router::Stub* stub() const { return stub_.get(); }
  const RouteAttachOptions& options() const { return options_; }
  // The router's answer; constant once started.
  const router::v1::Attached& attached() const { return attached_; }
  uint64_t rpcs() const { return rpcs_.load(); }

 private:
  explicit RouterAttachment(const RouteAttachOptions& options);
  void ReadStream(bool want_ring);
  absl::Status WaitAttached();

  template <typename Request, typename Response>
  absl::Status Call(grpc::Status (router::v1::Router::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    absl::Duration timeout, const Request& request, Response* response);

  const RouteAttachOptions options_;
  const std::unique_ptr<router::v1::Router::Stub> stub_;
  grpc::ClientContext context_;
  router::v1::Attached attached_;  // written by thread_ before started_
  std::atomic<bool> connected_{false};
  std::atomic<uint64_t> rpcs_{0};

  std::mutex mu_;
  std::condition_variable changed_;
  // Guarded by mu_.
  bool started_ = false;
  bool ended_ = false;
  absl::Status end_status_;
  std::function<void()> on_end_;

  std::thread thread_;
};

}  // namespace hga

#endif  // HGA_ROUTER_CLIENT_ROUTER_ATTACHMENT_H_
