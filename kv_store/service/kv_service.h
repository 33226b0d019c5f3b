// gRPC edge of kv_store: converts, checks and hands over to the StoreLoop. Runs on gRPC's threads, one per
// call.
#ifndef HGA_KV_STORE_SERVICE_KV_SERVICE_H_
#define HGA_KV_STORE_SERVICE_KV_SERVICE_H_

#include <atomic>
#include <memory>

#include "kv_store/service/fetch_ring_server.h"
#include "kv_store/store/store_loop.h"
#include "proto/kv_store/v1/kv_store.grpc.pb.h"

namespace hga {

class KvService : public kv_store::v1::KvStore::Service {
 public:
  // `loop` must outlive the service.
  explicit KvService(StoreLoop* loop) : loop_(loop) {}

  using Context = grpc::ServerContext;
  grpc::Status Attach(Context* context, const kv_store::v1::AttachRequest* request,
                      grpc::ServerWriter<kv_store::v1::AttachEvent>* stream) override;
  grpc::Status OpenSession(Context* context, const kv_store::v1::OpenSessionRequest* request,
                           kv_store::v1::OpenSessionResponse* response) override;
  grpc::Status UpdateSession(Context* context, const kv_store::v1::UpdateSessionRequest* request,
                             kv_store::v1::UpdateSessionResponse* response) override;
  grpc::Status CloseSession(Context* context, const kv_store::v1::CloseSessionRequest* request,
                            kv_store::v1::CloseSessionResponse* response) override;
  grpc::Status GetSession(Context* context, const kv_store::v1::GetSessionRequest* request,
                          kv_store::v1::GetSessionResponse* response) override;
  grpc::Status ListSessions(Context* context, const kv_store::v1::ListSessionsRequest* request,
                            kv_store::v1::ListSessionsResponse* response) override;
  grpc::Status DeleteSession(Context* context, const kv_store::v1::DeleteSessionRequest* request,
                             kv_store::v1::DeleteSessionResponse* response) override;
  grpc::Status ForkSession(Context* context, const kv_store::v1::ForkSessionRequest* request,
                           kv_store::v1::ForkSessionResponse* response) override;
  grpc::Status PinSession(Context* context, const kv_store::v1::PinSessionRequest* request,
                          kv_store::v1::PinSessionResponse* response) override;
  grpc::Status Reserve(Context* context, const kv_store::v1::ReserveRequest* request,
                       kv_store::v1::ReserveResponse* response) override;
  grpc::Status Commit(Context* context, const kv_store::v1::CommitRequest* request,
                      kv_store::v1::CommitResponse* response) override;
  grpc::Status Fetch(Context* context, const kv_store::v1::FetchRequest* request,
                     kv_store::v1::FetchResponse* response) override;
  grpc::Status FetchBlocks(Context* context, const kv_store::v1::FetchRequest* request,
                           grpc::ServerWriter<kv_store::v1::FetchedBytes>* stream) override;
  grpc::Status PutBlocks(Context* context, grpc::ServerReader<kv_store::v1::PutBlocksRequest>* stream,
                         kv_store::v1::CommitResponse* response) override;
  grpc::Status Release(Context* context, const kv_store::v1::ReleaseRequest* request,
                       kv_store::v1::ReleaseResponse* response) override;
  grpc::Status GetSummaries(Context* context, const kv_store::v1::GetSummariesRequest* request,
                            grpc::ServerWriter<types::v1::ChunkSummary>* stream) override;
  grpc::Status GetStats(Context* context, const kv_store::v1::GetStatsRequest* request,
                        kv_store::v1::GetStatsResponse* response) override;
  grpc::Status Flush(Context* context, const kv_store::v1::FlushRequest* request,
                     kv_store::v1::FlushResponse* response) override;
  grpc::Status Compact(Context* context, const kv_store::v1::CompactRequest* request,
                       grpc::ServerWriter<kv_store::v1::CompactProgress>* stream) override;

 private:
  // nullptr: not asked for, or it cannot be had.
  std::unique_ptr<FetchRingServer> StartRing(const AttachedClient& client);

  StoreLoop* const loop_;
  std::atomic<int> rings_{0};
};

}  // namespace hga

#endif  // HGA_KV_STORE_SERVICE_KV_SERVICE_H_
