// KvClient in process, for tests of the engine: the semantics of kv_store without processes, disk or eviction. What is
// committed is durable at once.
#ifndef HGA_KV_STORE_CLIENT_MEMORY_KV_CLIENT_H_
#define HGA_KV_STORE_CLIENT_MEMORY_KV_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/kv/geometry.h"
#include "kv_store/client/kv_client.h"

namespace hga {

// Thread-safe. Holds may outlive the client.
class MemoryKvClient : public KvClient {
 public:
  // slot_limit: slots that may be reserved or held at a time (others count as evictable); 0: unbounded.
  explicit MemoryKvClient(const KvGeometry& geometry, uint32_t slot_limit = 0);
  ~MemoryKvClient() override;

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
  uint32_t TakeReclaim() override;
  uint64_t rpc_count() const override;
  bool connected() const override;

  // Hooks for tests.
  // Every block that nobody holds moves to another address, and its next fetch says kDisk.
  void DropRam();
  // The next call fails with `status` and changes nothing; calls fail in the order they were set up.
  void FailNext(absl::Status status);
  // The next fetch of the block gives DATA_LOSS, and the chunk is gone.
  void DamageChunk(const ChunkHash& chunk);
  // Called before each fetch is served, on its caller's thread: to make something happen just then. nullptr: nothing.
  void BeforeFetch(std::function<void(absl::Span<const BlockHeads>)> hook);
  // As if the store had died: calls fail with UNAVAILABLE until it is back; its open sessions are closed.
  void SetConnected(bool connected);
  // The next TakeReclaim returns this.
  void SetReclaim(uint32_t slots);

 private:
  struct State;
  const std::shared_ptr<State> state_;  // shared with the holds
  const std::shared_ptr<const HeldBlock::Releaser> releaser_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_CLIENT_MEMORY_KV_CLIENT_H_
