// A gpu_worker for tests: answers from a script, over a Unix socket.
#ifndef HGA_CLIENT_TESTING_FAKE_WORKER_H_
#define HGA_CLIENT_TESTING_FAKE_WORKER_H_

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "grpcpp/server.h"
#include "proto/gpu_worker/v1/gpu_worker.grpc.pb.h"

namespace hga {

// Serves from construction to destruction.
class FakeWorker : private gpu_worker::v1::GpuWorker::Service {
 public:
  FakeWorker();
  ~FakeWorker() override;

  std::string address() const { return "unix:" + folder_ + "/worker.sock"; }

  // Before a call: what Generate sends, and how it ends.
  std::vector<gpu_worker::v1::GenerateEvent> events;
  grpc::Status status;
  std::string request_id;          // in the initial metadata; empty: none
  std::function<void()> on_generate;  // at the start of each call
  uint32_t reused_when_known = 0;  // reused_tokens of Finished where the session was there before
  bool endless = false;            // repeats the last event until the call is cancelled
  std::set<std::string> pinned;
  std::set<std::string> sessions;  // append=true to another one is NOT_FOUND

  // After a call.
  std::vector<gpu_worker::v1::GenerateRequest> requests() const;
  // False: no call was cancelled within 10 s.
  bool WaitForCancellation();

  void AddToken(const std::string& text);
  gpu_worker::v1::Finished* AddFinished();

 private:
  using Context = grpc::ServerContext;
  grpc::Status Generate(Context* context, const gpu_worker::v1::GenerateRequest* request,
                        grpc::ServerWriter<gpu_worker::v1::GenerateEvent>* writer) override;
  grpc::Status GetModel(Context*, const gpu_worker::v1::GetModelRequest*,
                        gpu_worker::v1::GetModelResponse* response) override;
  grpc::Status GetStats(Context*, const gpu_worker::v1::GetStatsRequest*,
                        gpu_worker::v1::GetStatsResponse* response) override;
  grpc::Status ListSessions(Context*, const gpu_worker::v1::ListSessionsRequest*,
                            gpu_worker::v1::ListSessionsResponse* response) override;
  grpc::Status DeleteSession(Context*, const gpu_worker::v1::DeleteSessionRequest* request,
                             gpu_worker::v1::DeleteSessionResponse*) override;
  grpc::Status ForkSession(Context*, const gpu_worker::v1::ForkSessionRequest* request,
                           gpu_worker::v1::ForkSessionResponse*) override;
  grpc::Status PinSession(Context*, const gpu_worker::v1::PinSessionRequest* request,
                          gpu_worker::v1::PinSessionResponse*) override;

  std::string folder_;
  std::unique_ptr<grpc::Server> server_;
  mutable std::mutex mu_;
  std::condition_variable cancelled_;
  // Guarded by mu_.
  std::vector<gpu_worker::v1::GenerateRequest> requests_;
  bool saw_cancellation_ = false;
};

}  // namespace hga

#endif  // HGA_CLIENT_TESTING_FAKE_WORKER_H_
