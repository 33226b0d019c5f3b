// gRPC edge of the router: proto/router/v1/router.proto.
#ifndef HGA_ROUTER_SERVICE_ROUTER_SERVICE_H_
#define HGA_ROUTER_SERVICE_ROUTER_SERVICE_H_

#include <memory>
#include <mutex>

#include "absl/container/flat_hash_set.h"
#include "proto/router/v1/router.grpc.pb.h"
#include "router/index/summary_index.h"
#include "router/service/router_metrics.h"
#include "router/service/worker_table.h"

namespace hga {

class AttachReactor;

// Attach is event driven, so that a worker costs no thread; everything else runs on gRPC's own threads, each Route
// stream on one of them. `index` and `metrics` outlive the service. Thread-safe.
class RouterService final : public router::v1::Router::WithCallbackMethod_Attach<router::v1::Router::Service> {
 public:
  RouterService(const RouterServiceOptions& options, SummaryIndex* index, RouterMetrics* metrics);

  // Ends all Attach and Route streams, and those to come, so that the server can shut down.
  void StopWorkers();

  grpc::ServerWriteReactor<router::v1::AttachEvent>* Attach(grpc::CallbackServerContext* context,
                                                            const router::v1::AttachRequest* request) override;
  grpc::Status OpenSequence(grpc::ServerContext* context, const router::v1::OpenSequenceRequest* request,
                            router::v1::OpenSequenceResponse* response) override;
  grpc::Status AppendSummaries(grpc::ServerContext* context, const router::v1::AppendSummariesRequest* request,
                               router::v1::AppendSummariesResponse* response) override;
  grpc::Status CloseSequence(grpc::ServerContext* context, const router::v1::CloseSequenceRequest* request,
                             router::v1::CloseSequenceResponse* response) override;
  grpc::Status Route(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<router::v1::RouteEnvelope, router::v1::RouteEnvelope>* stream) override;
  grpc::Status GetStats(grpc::ServerContext* context, const router::v1::GetStatsRequest* request,
                        router::v1::GetStatsResponse* response) override;

 private:
  friend class AttachReactor;

  absl::Status Open(const router::v1::OpenSequenceRequest& request, router::v1::OpenSequenceResponse* response);
  absl::Status Append(const router::v1::AppendSummariesRequest& request,
                      router::v1::AppendSummariesResponse* response);
  void AnswerEnvelope(const router::v1::RouteEnvelope& in, std::unique_ptr<RouteAnswerer>* answerer,
                      uint64_t* worker_id, router::v1::RouteEnvelope* out);
  // False once the service is stopping.
  bool AddStream(grpc::ServerContextBase* context);
  void RemoveStream(grpc::ServerContextBase* context);

  SummaryIndex* const index_;
  RouterMetrics* const metrics_;
  WorkerTable workers_;

  // Recursive: gRPC may run a stream's last callback inside TryCancel, on the cancelling thread.
  std::recursive_mutex mu_;
  // Guarded by mu_.
  bool stopping_ = false;
  absl::flat_hash_set<grpc::ServerContextBase*> streams_;  // Attach and Route streams under way
};

}  // namespace hga

#endif  // HGA_ROUTER_SERVICE_ROUTER_SERVICE_H_
