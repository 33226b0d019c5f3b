// KvClient over gRPC, with the blocks mapped from the store's arena or, from another host, as bytes.
#ifndef HGA_KV_STORE_CLIENT_GRPC_KV_CLIENT_H_
#define HGA_KV_STORE_CLIENT_GRPC_KV_CLIENT_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/kv/geometry.h"
#include "common/rpc/request_metadata.h"
#include "common/rpc/status.h"
#include "kv_store/arena/arena.h"
#include "kv_store/client/fetch_ring.h"
#include "kv_store/client/kv_client.h"
#include "kv_store/client/release_queue.h"
#include "kv_store/client/remote_blocks.h"
#include "proto/kv_store/v1/kv_store.grpc.pb.h"

namespace hga {

struct GrpcKvClientOptions {
  std::string address;      // "unix:/path" or "host:port"
  std::string client_name;  // for the store's log
  KvGeometry geometry;      // layers == 0: no arena; sessions, summaries and statistics only
  int attach_timeout_ms = 5000;
  // Not 0: blocks travel as bytes, and this client holds so many at most. 0: the arena is mapped.
  uint64_t remote_bytes = 0;
  // Called on a thread of the client's with each arena that it maps, before anything of it is held. What it returns, if
  // anything, is called before that arena is unmapped, on any thread.
  std::function<std::function<void()>(const void* memory, size_t bytes)> on_map;
  bool fetch_ring = true;  // fetches and releases go over a ring in shared memory, where it can be had
};

// Two threads of its own: one reads the Attach stream and re-attaches when it ends, one sends releases.
class GrpcKvClient : public KvClient {
 public:
  // Waits for the store to come up, at most attach_timeout_ms. FAILED_PRECONDITION: the store holds another
  // shape, or its arena cannot be mapped from here.
  static absl::StatusOr<std::unique_ptr<GrpcKvClient>> Attach(const GrpcKvClientOptions& options);
  ~GrpcKvClient() override;

  absl::StatusOr<OpenedSession> OpenSession(const std::string& name, const ModelFingerprint& model,
                                            absl::Span<const ChunkHash> chunks) override;
  absl::Status UpdateSession(const OpenedSession& session, absl::Span<const ChunkHash> chunks,
                             absl::Span<const uint32_t> tail_tokens) override;
  absl::Status CloseSession(const OpenedSession& session) override;
  absl::StatusOr<std::vector<uint32_t>> GetSession(const std::string& name,
                                                   const ModelFingerprint& model) override;
  absl::StatusOr<std::vector<SessionSummary>> ListSessions() override;
  absl::Status DeleteSession(const std::string& name) override;
  absl::Status ForkSession(const std::string& from, const std::string& to) override;
  absl::Status PinSession(const std::string& name, bool pinned) override;
  absl::StatusOr<std::vector<HeldBlock>> Reserve(uint32_t count) override;
  absl::StatusOr<std::vector<HeldBlock>> Commit(const OpenedSession& session, CommitChunk chunk) override;
  absl::StatusOr<std::vector<FetchedBlock>> FetchHeads(absl::Span<const BlockHeads> wanted) override;
  absl::Status GetSummaries(absl::Span<const ChunkHash> chunks,
                            const std::function<void(const ChunkHash&, const std::string& method,
                                                     const std::string& data)>& sink) override;
  absl::StatusOr<KvStoreStats> GetStats() override;
  uint32_t TakeReclaim() override { return reclaim_.exchange(0); }
  uint64_t rpc_count() const override { return rpcs_.load(); }
  bool connected() const override;

  // Waits until everything committed is durable; then drops what nobody holds from RAM, if asked.
  absl::Status Flush(bool drop_ram);

 private:
  // One attach: its identity and its mapping. Immutable.
  struct Attachment {
    uint64_t client_id = 0;
    std::shared_ptr<const Arena> arena;                   // nullptr: none
    std::shared_ptr<const HeldBlock::Releaser> releaser;  // keeps the mapping alive for its holds
    std::shared_ptr<FetchRing> ring;                      // nullptr: none, by gRPC
  };
  using AttachmentPtr = std::shared_ptr<const Attachment>;

  explicit GrpcKvClient(const GrpcKvClientOptions& options);
  absl::Status WaitAttached();
  void AttachLoop();
  absl::Status RunStream(grpc::ClientContext* context);
  absl::StatusOr<AttachmentPtr> Map(const kv_store::v1::Attached& attached) const;
  void ReleaseLoop();
  void FlushReleases();
  absl::StatusOr<AttachmentPtr> Current() const;           // UNAVAILABLE while the store is gone
  absl::StatusOr<AttachmentPtr> CurrentWithArena() const;  // FAILED_PRECONDITION if attached without one

  static constexpr std::chrono::seconds kCallDeadline{60};
  template <typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallDeadline);
    SendRequestId(&context);
    ++rpcs_;
    return FromGrpc((stub_.get()->*method)(&context, request, response));
  }
  absl::StatusOr<std::vector<HeldBlock>> ReserveOnce(uint32_t count);
  absl::Status FetchInto(absl::Span<const BlockHeads> blocks, const std::vector<size_t>& wanted,
                         std::vector<FetchedBlock>* out);
  // With the ring's turn.
  absl::Status FetchOverRing(const Attachment& attachment, absl::Span<const BlockHeads> blocks,
                             const std::vector<size_t>& wanted, std::vector<FetchedBlock>* out);
  absl::StatusOr<std::vector<RingFetched>> Exchange(FetchRing* ring, RingFetch request);
  static absl::Status TakeFetched(const Attachment& attachment, const BlockName& name, absl::StatusCode code,
                                  uint32_t slot, bool from_disk, FetchedBlock* out);
  absl::Status FetchRemote(absl::Span<const BlockHeads> blocks, const std::vector<size_t>& wanted,
                           std::vector<FetchedBlock>* out);
  absl::StatusOr<std::vector<HeldBlock>> PutRemote(const OpenedSession& session, CommitChunk chunk);
  static absl::StatusOr<HeldBlock> Take(const Attachment& attachment, uint32_t slot);
  // Moves the summary out of `chunk`.
  kv_store::v1::CommitRequest CommitMessage(uint64_t client_id, const OpenedSession& session, CommitChunk* chunk) const;

  // Constant after construction.
  const GrpcKvClientOptions options_;
  const std::unique_ptr<kv_store::v1::KvStore::Stub> stub_;
  const std::shared_ptr<ReleaseQueue> releases_;
  const std::unique_ptr<RemoteBlocks> remote_;  // nullptr: the arena is mapped

  std::atomic<uint32_t> reclaim_{0};
  std::atomic<uint64_t> rpcs_{0};
  std::atomic<uint32_t> rings_broken_{0};

  mutable std::mutex mu_;
  std::condition_variable changed_;
  // Guarded by mu_.
  AttachmentPtr attachment_;  // nullptr: not attached
  absl::Status last_error_;
  bool gave_up_ = false;  // the first attach was refused for good
  bool ever_attached_ = false;
  bool stopping_ = false;
  grpc::ClientContext* stream_context_ = nullptr;

  std::mutex flush_mu_;  // held while a batch of releases is under way, so that a retry comes after it

  std::thread attach_thread_;
  std::thread release_thread_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_CLIENT_GRPC_KV_CLIENT_H_
