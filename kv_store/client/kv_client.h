// The worker's and the router's way to the K/V store. Implementations: grpc_kv_client.h (gRPC and the mapped arena),
// memory_kv_client.h (in process, unbounded or bounded, for tests).
#ifndef HGA_KV_STORE_CLIENT_KV_CLIENT_H_
#define HGA_KV_STORE_CLIENT_KV_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/bf16.h"
#include "common/kv/block_heads.h"
#include "common/kv/ids.h"

namespace hga {

// The right to one slot: while it lives the store does not reuse the slot and the bytes stay mapped, even if the store
// restarts. Written only between Reserve and Commit. Movable; releasing is queued, never blocks and never fails.
class HeldBlock {
 public:
  using Releaser = std::function<void(uint32_t slot)>;

  HeldBlock() = default;
  // `releaser` is shared by all holds of one mapping and keeps it alive.
  HeldBlock(void* data, uint32_t slot, std::shared_ptr<const Releaser> releaser)
      : data_(data), slot_(slot), releaser_(std::move(releaser)) {}
  ~HeldBlock() { Reset(); }
  HeldBlock(HeldBlock&& other) noexcept { *this = std::move(other); }
  HeldBlock& operator=(HeldBlock&& other) noexcept {
    if (this != &other) {
      Reset();
      data_ = std::exchange(other.data_, nullptr);
      slot_ = other.slot_;
      releaser_ = std::move(other.releaser_);
    }
    return *this;
  }

  explicit operator bool() const { return data_ != nullptr; }
  void* data() const { return data_; }  // [KvGeometry::block_bytes]
  uint32_t slot() const { return slot_; }

  void Reset() {
    if (data_ != nullptr && releaser_ != nullptr) (*releaser_)(slot_);
    data_ = nullptr;
    releaser_.reset();
  }
  // Gives up the handle without releasing: the store has taken the slot over (Commit).
  uint32_t Detach() {
    data_ = nullptr;
    releaser_.reset();
    return slot_;
  }

 private:
  void* data_ = nullptr;
  uint32_t slot_ = 0;
  std::shared_ptr<const Releaser> releaser_;
};

enum class FoundIn { kRam, kDisk };

struct FetchedBlock {
  absl::Status status;  // NOT_FOUND, DATA_LOSS, RESOURCE_EXHAUSTED; OK: `block` is held
  HeldBlock block;
  FoundIn found_in = FoundIn::kRam;
};

struct OpenedSession {
  std::string session_id;
  uint64_t epoch = 0;
  uint32_t matched_chunks = 0;
  uint32_t matched_in_ram = 0;
};

struct CommitChunk {
  ChunkHash hash;
  ChunkHash parent;
  std::vector<uint32_t> token_ids;  // [chunk_tokens]
  std::vector<HeldBlock> blocks;    // [layers], reserved and written
  std::string summary_method;
  std::string summary;              // bf16 data, common/kv/summary.h
};

struct SessionSummary {
  std::string name;
  uint64_t tokens = 0;
  uint64_t bytes = 0;
  uint32_t chunks = 0;
  uint32_t chunks_durable = 0;
  int64_t last_used_unix_s = 0;
  bool open = false;
  bool pinned = false;
};

struct KvStoreStats {
  uint64_t slots_total = 0, slots_free = 0, slots_held = 0, slots_dirty = 0;
  uint64_t sessions = 0, chunks = 0, chunks_durable = 0, disk_bytes = 0, evictions = 0;
};

// Thread-safe. UNAVAILABLE when the store is gone; the client then re-attaches by itself and later calls succeed again
// (holds of the old mapping stay readable, its sessions must be opened again: FAILED_PRECONDITION).
class KvClient {
 public:
  virtual ~KvClient() = default;

  virtual absl::StatusOr<OpenedSession> OpenSession(const std::string& name, const ModelFingerprint& model,
                                                    absl::Span<const ChunkHash> chunks) = 0;
  virtual absl::Status UpdateSession(const OpenedSession& session, absl::Span<const ChunkHash> chunks,
                                     absl::Span<const uint32_t> tail_tokens) = 0;
  virtual absl::Status CloseSession(const OpenedSession& session) = 0;
  // Token ids of a stored session; FAILED_PRECONDITION if another model wrote it.
  virtual absl::StatusOr<std::vector<uint32_t>> GetSession(const std::string& name, const ModelFingerprint& model) = 0;
  virtual absl::StatusOr<std::vector<SessionSummary>> ListSessions() = 0;
  virtual absl::Status DeleteSession(const std::string& name) = 0;
  // Another name for what the session holds. NOT_FOUND: nothing; ALREADY_EXISTS: `to` is taken.
  virtual absl::Status ForkSession(const std::string& from, const std::string& to) = 0;
  // Whether its blocks leave RAM last and stay on disk, through restarts. NOT_FOUND.
  virtual absl::Status PinSession(const std::string& name, bool pinned) = 0;

  // `count` slots to write. RESOURCE_EXHAUSTED when all are held or dirty.
  virtual absl::StatusOr<std::vector<HeldBlock>> Reserve(uint32_t count) = 0;
  // Returns the blocks as read holds [layers]. On error the reserved slots are released.
  virtual absl::StatusOr<std::vector<HeldBlock>> Commit(const OpenedSession& session, CommitChunk chunk) = 0;
  // One result per block, in order. Of one that comes from disk nothing but the heads that are wanted need be there.
  virtual absl::StatusOr<std::vector<FetchedBlock>> FetchHeads(absl::Span<const BlockHeads> wanted) = 0;
  absl::StatusOr<std::vector<FetchedBlock>> Fetch(absl::Span<const BlockName> names) {
    return FetchHeads(WholeBlocks(names));
  }
  // (chunk, method, summary data) in order, ends at the first chunk the store does not have.
  virtual absl::Status GetSummaries(
      absl::Span<const ChunkHash> chunks,
      const std::function<void(const ChunkHash&, const std::string& method, const std::string& data)>& sink) = 0;

  virtual absl::StatusOr<KvStoreStats> GetStats() = 0;

  // Holds the store has asked back since the last call; 0: none.
  virtual uint32_t TakeReclaim() = 0;
  // RPCs and fetches over a ring made so far (releases not counted: they are queued off the caller's thread).
  virtual uint64_t rpc_count() const = 0;
  virtual bool connected() const = 0;
};

}  // namespace hga

#endif  // HGA_KV_STORE_CLIENT_KV_CLIENT_H_
