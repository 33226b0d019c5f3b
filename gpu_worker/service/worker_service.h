// The worker's gRPC edge: turns calls into engine requests and streams the events.
#ifndef HGA_GPU_WORKER_SERVICE_WORKER_SERVICE_H_
#define HGA_GPU_WORKER_SERVICE_WORKER_SERVICE_H_

#include <functional>
#include <string>

#include "gpu_worker/engine/engine.h"
#include "gpu_worker/engine/router_link.h"
#include "gpu_worker/model/loaded_model.h"
#include "kv_store/client/kv_client.h"
#include "proto/gpu_worker/v1/gpu_worker.grpc.pb.h"

namespace hga {

struct WorkerInfo {
  std::string backend;
  uint32_t threads = 0;
  uint64_t kv_bytes_per_token = 0;
};

// Thread-safe: gRPC's threads call it. What is given to it outlives it.
class WorkerService : public gpu_worker::v1::GpuWorker::Service {
 public:
  WorkerService(const LoadedModel* model, Engine* engine, KvClient* store, RouterLink* link, WorkerInfo info)
      : model_(model), engine_(engine), store_(store), link_(link), info_(std::move(info)) {}

  grpc::Status Generate(grpc::ServerContext* context, const gpu_worker::v1::GenerateRequest* request,
                        grpc::ServerWriter<gpu_worker::v1::GenerateEvent>* writer) override;
  grpc::Status GetModel(grpc::ServerContext* context, const gpu_worker::v1::GetModelRequest* request,
                        gpu_worker::v1::GetModelResponse* response) override;
  grpc::Status GetStats(grpc::ServerContext* context, const gpu_worker::v1::GetStatsRequest* request,
                        gpu_worker::v1::GetStatsResponse* response) override;
  grpc::Status ListSessions(grpc::ServerContext* context, const gpu_worker::v1::ListSessionsRequest* request,
                            gpu_worker::v1::ListSessionsResponse* response) override;
  grpc::Status DeleteSession(grpc::ServerContext* context, const gpu_worker::v1::DeleteSessionRequest* request,
                             gpu_worker::v1::DeleteSessionResponse* response) override;
  grpc::Status ForkSession(grpc::ServerContext* context, const gpu_worker::v1::ForkSessionRequest* request,
                           gpu_worker::v1::ForkSessionResponse* response) override;
  grpc::Status PinSession(grpc::ServerContext* context, const gpu_worker::v1::PinSessionRequest* request,
                          gpu_worker::v1::PinSessionResponse* response) override;

  grpc::Status Explain(grpc::ServerContext* context, const gpu_worker::v1::ExplainRequest* request,
                       gpu_worker::v1::ExplainResponse* response) override;

 private:
  void AddRouterStats(gpu_worker::v1::GetStatsResponse* response) const;
  // Hands every event to `take`, which returns whether the caller is still there, until the request ends.
  absl::Status Follow(grpc::ServerContext* context, EventStream* events,
                      const std::function<bool(const EngineEvent&)>& take) const;
  absl::Status ExplainNow(grpc::ServerContext* context, const gpu_worker::v1::ExplainRequest& request,
                          gpu_worker::v1::ExplainResponse* response);
  absl::Status GenerateNow(grpc::ServerContext* context, const std::string& request_id,
                           const gpu_worker::v1::GenerateRequest& request,
                           grpc::ServerWriter<gpu_worker::v1::GenerateEvent>* writer);

  // Constant after construction.
  const LoadedModel* const model_;
  Engine* const engine_;
  KvClient* const store_;
  RouterLink* const link_;
  const WorkerInfo info_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_SERVICE_WORKER_SERVICE_H_
