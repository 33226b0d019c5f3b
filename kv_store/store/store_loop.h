// Runs a BlockStore: one thread owns it, one writes to disk, a few read from disk, one keeps time.
//
// The daemon owns one StoreLoop. Its functions are thread-safe and block their caller, never the store's
// thread.
#ifndef HGA_KV_STORE_STORE_STORE_LOOP_H_
#define HGA_KV_STORE_STORE_STORE_LOOP_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "common/base/serial_executor.h"
#include "kv_store/arena/arena.h"
#include "kv_store/store/block_store.h"
#include "kv_store/store/mailbox.h"
#include "kv_store/store/store_metrics.h"
#include "kv_store/tier/kv_tier.h"

namespace hga {

struct StoreLoopOptions {
  std::string arena_path;
  uint64_t arena_bytes = 512ull << 20;
  bool commit_waits_for_disk = false;
  uint32_t read_threads = 32;  // reads of the disk under way at once
  BlockStoreOptions store;
};

struct AttachedClient {
  ClientId id = 0;
  bool has_arena = false;
  std::string arena_path;
  ArenaShape shape;
  uint32_t lock_byte = 0;
  std::shared_ptr<Mailbox> mailbox;
};

class StoreLoop;

// While it lives, no slot of the client is given to another, also when the client leaves meanwhile. For a thread of the
// service that reads or writes the arena in its name.
class Transfer {
 public:
  Transfer(StoreLoop* loop, ClientId client, const KvGeometry& geometry)
      : loop_(loop), client_(client), geometry_(geometry) {}
  ~Transfer();
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  const KvGeometry& geometry() const { return geometry_; }
  uint8_t* Slot(uint32_t slot) const;

 private:
  StoreLoop* const loop_;
  const ClientId client_;
  const KvGeometry geometry_;
};

class StoreLoop {
 public:
  // Reads the index from `tier`.
  static absl::StatusOr<std::unique_ptr<StoreLoop>> Start(const StoreLoopOptions& options,
                                                          std::unique_ptr<KvTier> tier,
                                                          std::shared_ptr<prometheus::Registry> registry);
  // Stops without waiting for the disk; see Flush.
  ~StoreLoop();

  // Makes the arena at the first attach with a geometry, which may take a minute. FAILED_PRECONDITION on a geometry
  // unlike the store's.
  // `map_arena`: the client maps the arena and has a lock byte in it; otherwise its blocks travel as bytes.
  absl::StatusOr<AttachedClient> Attach(const std::string& client_name, const std::optional<KvGeometry>& geometry,
                                        bool map_arena = true);
  void Detach(ClientId client);

  absl::StatusOr<OpenOutcome> OpenSession(ClientId client, const std::string& name,
                                          const ModelFingerprint& model,
                                          const std::vector<ChunkHash>& chunks);
  absl::Status UpdateSession(ClientId client, const std::string& session_id, uint64_t epoch,
                             std::vector<ChunkHash> chunks, std::vector<uint32_t> tail_tokens);
  absl::Status CloseSession(ClientId client, const std::string& session_id, uint64_t epoch);
  absl::StatusOr<StoredTokens> GetSession(const std::string& name);
  std::vector<SessionView> ListSessions();
  absl::Status DeleteSession(const std::string& name);
  absl::Status ForkSession(const std::string& from, const std::string& to);
  absl::Status PinSession(const std::string& name, bool pinned);

  absl::StatusOr<std::vector<uint32_t>> Reserve(ClientId client, uint32_t count);
  // With commit_waits_for_disk, UNAVAILABLE if the chunk is not durable within 30 s (it stays committed).
  absl::StatusOr<CommitOutcome> Commit(ClientId client, CommitArgs args);
  absl::StatusOr<std::vector<FetchOutcome>> Fetch(ClientId client, const std::vector<BlockHeads>& wanted);
  absl::Status Release(ClientId client, const std::vector<uint32_t>& slots);
  absl::StatusOr<SummaryRecord> GetSummary(const ChunkHash& chunk);
  // RESOURCE_EXHAUSTED: the client has too many of them. FAILED_PRECONDITION: it attached without a geometry.
  absl::StatusOr<std::unique_ptr<Transfer>> BeginTransfer(ClientId client);
  // The block in RAM was read and had another checksum.
  void CheckBlock(const BlockName& name);
  void CountRingExchange() { metrics_.CountRingExchange(); }

  StoreStats GetStats();
  TierStats DiskStats() { return tier_->Stats(); }
  // As KvTier::Compact. RESOURCE_EXHAUSTED: another one is under way.
  absl::Status Compact(Compaction* compaction);
  // Waits until everything committed is durable, then drops clean unheld blocks if asked. UNAVAILABLE: not in
  // time.
  absl::StatusOr<uint64_t> Flush(bool drop_ram, std::chrono::milliseconds timeout);
  // Ends the clients' streams; later attaches are refused.
  void StopClients();

 private:
  struct ClientSeat {
    std::optional<uint32_t> lock_byte;
    std::shared_ptr<Mailbox> mailbox;
    bool quarantined = false;
    bool has_blocks = false;
    uint32_t transfers = 0;  // under way
  };

  StoreLoop(const StoreLoopOptions& options, std::unique_ptr<KvTier> tier,
            std::shared_ptr<prometheus::Registry> registry);

  template <typename F>
  auto OnStore(F&& work) {
    return executor_->Run([&] {
      auto result = work();
      Pump();
      return result;
    });
  }

  absl::Status SaveOnStore(absl::FunctionRef<absl::Status()> change);

  // On the store's thread.
  friend class Transfer;
  void EndTransfer(ClientId client);
  absl::StatusOr<AttachedClient> AttachOnStore(const std::optional<KvGeometry>& geometry, bool map_arena);
  absl::Status PrepareArena(const KvGeometry& geometry);
  absl::StatusOr<Arena> MakeArena(const ArenaShape& shape) const;
  absl::StatusOr<uint32_t> TakeLockByte();
  void PollQuarantine();
  void Pump();
  void StartReads(std::vector<DiskRead> reads);
  void Spread(absl::Span<const DiskRead> reads, size_t ways);  // over so many readers

  void WriteStepOnce(std::shared_ptr<WriteJob> job, const KvGeometry& geometry);     // on the writer's thread
  void ReadBatch(std::vector<BlockRead> batch, const std::vector<uint32_t>& slots);  // on a reader's thread
  void Tick();  // the timekeeper's thread

  // Constant after construction.
  const StoreLoopOptions options_;
  const uint64_t generation_;
  const std::unique_ptr<KvTier> tier_;
  StoreMetrics metrics_;

  // Owned by the store's thread.
  BlockStore store_;
  std::optional<Arena> arena_;
  std::optional<KvGeometry> geometry_;
  absl::flat_hash_map<ClientId, ClientSeat> seats_;
  std::set<uint32_t> used_lock_bytes_;
  ClientId next_client_;
  size_t next_reader_ = 0;
  bool writes_fail_ = false;
  std::chrono::steady_clock::time_point next_write_;  // while they fail
  std::vector<std::function<void()>> flush_waiters_;

  std::atomic<bool> compacting_{false};
  std::atomic<bool> refusing_clients_{false};  // also ends the making of an arena

  std::mutex mu_;
  std::condition_variable stop_changed_;
  bool stopping_ = false;    // guarded by mu_
  bool quarantine_ = false;  // guarded by mu_: somebody is in quarantine

  std::unique_ptr<SerialExecutor> executor_;
  std::unique_ptr<SerialExecutor> writer_;
  std::vector<std::unique_ptr<SerialExecutor>> readers_;
  std::thread ticker_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_STORE_STORE_LOOP_H_
