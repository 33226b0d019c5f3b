// What kv_store knows: chunks and where their blocks are, sessions, clients and their holds.
//
// A plain state machine: it starts no thread and waits for no disk. Disk work leaves it as DiskReads and
// WriteJobs and comes back through FinishRead and FinishWrite; store_loop.h runs them.
//
// Invariants: a chunk in the index that is not `lost` is complete: each layer's block is in a slot or durable. A
// manifest on disk names only chunks whose token ids are on disk, so whatever is lost can be computed again.
#ifndef HGA_KV_STORE_STORE_BLOCK_STORE_H_
#define HGA_KV_STORE_STORE_BLOCK_STORE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/block_heads.h"
#include "common/kv/geometry.h"
#include "common/kv/ids.h"
#include "kv_store/store/ghost_list.h"
#include "kv_store/store/slot_table.h"
#include "kv_store/store/trace.h"
#include "kv_store/tier/kv_tier.h"

namespace hga {

using ClientId = uint64_t;

inline constexpr uint32_t kMaxReserve = 4096;
inline constexpr uint32_t kMaxFetch = 65536;
inline constexpr size_t kMaxSessions = 262144;  // some 400 bytes each, beside their manifests

// What is known of a chunk while some of it is in RAM or not on disk yet.
struct ChunkInRam {
  std::vector<uint32_t> slots;  // [layers], kNoSlot where not in RAM
  uint32_t resident = 0;        // slots that hold a finished block
  // Only until the disk has them.
  std::shared_ptr<const ChunkRecord> record;
  std::shared_ptr<const SummaryRecord> summary;
  std::vector<std::function<void(absl::Status)>> on_durable;
};

// One chunk of the index; there may be millions. Token ids are not here: they are in `ram->record` or on disk.
struct Chunk {
  ChunkHash hash;
  ChunkHash parent;
  uint64_t serial = 0;  // tells this content from an earlier one of the same name
  uint32_t refs = 0;    // by manifests and by open sessions
  uint32_t pinned = 0;  // of these, by manifests of pinned sessions
  bool durable = false;
  bool writing = false;   // part of the write job under way
  bool recorded = false;  // the disk has, or may get, a record of it
  bool lost = false;      // its blocks are gone, its token ids are not: to be computed again
  std::unique_ptr<ChunkInRam> ram;  // nullptr: nothing of it

  uint32_t slot(uint32_t layer) const { return ram == nullptr ? kNoSlot : ram->slots[layer]; }
  bool InRam(uint32_t layers) const { return ram != nullptr && ram->resident == layers; }
};

// Chunks by hash, without a copy of it.
struct ChunkKey {
  using is_transparent = void;
  static const ChunkHash& Of(const ChunkHash& hash) { return hash; }
  static const ChunkHash& Of(const std::unique_ptr<Chunk>& chunk) { return chunk->hash; }
  template <typename T>
  size_t operator()(const T& key) const {
    return absl::Hash<ChunkHash>()(Of(key));
  }
  template <typename A, typename B>
  bool operator()(const A& a, const B& b) const {
    return Of(a) == Of(b);
  }
};
using ChunkIndex = absl::flat_hash_set<std::unique_ptr<Chunk>, ChunkKey, ChunkKey>;

struct FetchOutcome {
  absl::Status status;
  uint32_t slot = 0;
  uint64_t checksum = 0;  // of the block in the slot, if it is whole
  bool from_disk = false;  // else from RAM, in place or packed
};
using FetchDone = std::function<void(std::vector<FetchOutcome>)>;

// To be read into the slot's memory, then given to FinishRead.
struct DiskRead {
  uint32_t slot = 0;
  BlockName name;
  uint64_t heads = kAllHeads;
};

struct WriteJob {
  WriteStep step;
  uint64_t bytes = 0;
};

struct OpenOutcome {
  std::string session_id;
  uint64_t epoch = 0;
  uint32_t matched = 0;
  uint32_t matched_in_ram = 0;
};

struct CommitArgs {
  std::string session_id;
  uint64_t epoch = 0;
  ChunkHash hash;
  ChunkHash parent;
  std::vector<uint32_t> token_ids;
  std::vector<uint32_t> slots;
  std::vector<uint64_t> checksums;
  SummaryRecord summary;
};

struct CommitOutcome {
  std::vector<uint32_t> slots;
  bool duplicate = false;
};

struct SessionView {
  std::string name;
  uint64_t tokens = 0, bytes = 0;
  uint32_t chunks = 0, chunks_durable = 0;
  int64_t last_used_unix_s = 0;
  bool open = false;
  bool pinned = false;
};

// What a session's token ids are made of.
struct StoredSession {
  struct Part {
    ChunkHash hash;
    std::shared_ptr<const ChunkRecord> record;  // nullptr: on disk
  };
  ModelFingerprint model;
  std::vector<Part> chunks;
  std::vector<uint32_t> tail_tokens;
};

struct StoredTokens {
  ModelFingerprint model;
  std::vector<uint32_t> token_ids;
};

// Monotonic counts and current values.
struct StoreStats {
  uint64_t slots[kSlotStates] = {};
  uint64_t slots_total = 0, slots_held = 0;
  uint64_t ram_hits = 0, packed_ram_hits = 0, disk_hits = 0, misses = 0, evictions = 0, checksum_errors = 0;
  uint64_t budget_evicted_sessions = 0, budget_evicted_chunks = 0;
  uint64_t reclaims = 0, unknown_releases = 0, chunks_written = 0, bytes_written = 0;
  uint64_t sessions = 0, chunks = 0, chunks_durable = 0, chunks_dirty = 0, clients = 0,
           clients_quarantined = 0;
  uint64_t ram_checksum_errors = 0;  // blocks in RAM that a sample found damaged
  uint64_t garbage_chunks = 0;       // found at start: of no session, left by a crash
  uint64_t damaged_records = 0;      // found at start: records that do not decode
};

struct BlockStoreOptions {
  uint32_t writeback_queue_chunks = 256;  // Reserve refuses while more are waiting for the disk
  uint64_t write_step_bytes = 64ull << 20;
  // Budget of the disk; 0: none. Seven tenths are for blocks, the rest for dead blocks not collected yet, the index and
  // the log.
  uint64_t disk_bytes = 0;
  bool packs_bf16 = false;  // the tier stores bf16 in a byte and a 32nd per value instead of two
  // K/V, counted as it is in RAM, that sessions pinned by requests may keep from the disk budget, those of
  // `pinned_sessions` counted in; 0: half of what the budget has for blocks, without a budget no bound.
  uint64_t pin_bytes = 0;
  // Sessions, system prompts for one, whose blocks are evicted last and whose K/V is never given up for the budget.
  absl::flat_hash_set<std::string> pinned_sessions;
  std::shared_ptr<TraceRecorder> trace;  // nullptr: nothing is recorded
  uint32_t verify_ram_every = 256;  // one of so many RAM hits is checked against its checksum; 0: none
  std::function<int64_t()> now_unix_s;  // nullptr: the system's clock
};

// Reads what is not in RAM. NOT_FOUND: the session was changed or deleted meanwhile; DATA_LOSS: a record is damaged.
absl::StatusOr<StoredTokens> ReadTokens(const StoredSession& session, KvTier* tier);

// Takes chunks whose bytes are not what was committed out of the step and returns their names.
std::vector<ChunkHash> RejectDamaged(const KvGeometry& geometry, WriteStep* step);

// Owned by one thread. Every call checks what comes from clients: INVALID_ARGUMENT for malformed requests,
// FAILED_PRECONDITION for a client that is not attached, a stale epoch or a session that is not the caller's.
class BlockStore {
 public:
  using SlotMemory = std::function<uint8_t*(uint32_t slot)>;

  explicit BlockStore(const BlockStoreOptions& options) : options_(options) {}

  // --- Life ---
  // Reads the index after a restart. Chunks whose blocks are not durable are `lost`; what no manifest names is
  // deleted with the next write job, unless a manifest was damaged: then its chunks wait for whoever asks for
  // the same tokens again.
  absl::Status Load(KvTier* tier);
  // Fixes the block shape; once, before the first slot is used.
  void SetSlots(const KvGeometry& geometry, uint32_t slot_count, SlotMemory memory);
  // Forgets the shape read by Load, which is right only while the store is empty.
  bool has_chunks() const { return !chunks_.empty(); }

  // --- Clients ---
  void AddClient(ClientId client);
  // Closes its sessions; its slots stay untouchable until FreeClient.
  void QuarantineClient(ClientId client);
  void FreeClient(ClientId client);

  // --- Sessions ---
  absl::StatusOr<OpenOutcome> OpenSession(ClientId client, const std::string& name,
                                          const ModelFingerprint& model, absl::Span<const ChunkHash> chunks);
  absl::Status UpdateSession(ClientId client, const std::string& session_id, uint64_t epoch,
                             std::vector<ChunkHash> chunks, std::vector<uint32_t> tail_tokens);
  absl::Status CloseSession(ClientId client, const std::string& session_id, uint64_t epoch);
  absl::StatusOr<StoredSession> GetSession(const std::string& name) const;
  std::vector<SessionView> ListSessions() const;
  absl::Status DeleteSession(const std::string& name);
  // Copies the manifest as it was last written, no block. ALREADY_EXISTS: `to` is taken.
  absl::Status ForkSession(const std::string& from, const std::string& to);
  // Whether its blocks leave RAM last and stay on disk. NOT_FOUND; FAILED_PRECONDITION: `pinned_sessions` has it;
  // RESOURCE_EXHAUSTED: pinned sessions would have more than `pin_bytes`.
  absl::Status PinSession(const std::string& name, bool pinned);
  // Calls back when all changes of sessions made so far are durable, maybe at once.
  void WhenSaved(std::function<void(absl::Status)> done);

  // --- Blocks ---
  absl::StatusOr<std::vector<uint32_t>> Reserve(ClientId client, uint32_t count);
  absl::StatusOr<CommitOutcome> Commit(ClientId client, CommitArgs args);
  // Calls back at once if the chunk is durable already.
  void WhenDurable(const ChunkHash& chunk, std::function<void(absl::Status)> done);
  // Takes holds on what is in RAM and returns what has to be read; `done` is called when every block is
  // settled, maybe before this returns. Where some heads of a block are wanted, half of them at most, and it is not in
  // RAM, they alone are read, into a slot that nobody else is given and that is free with its hold: the block does not
  // count as being in RAM.
  absl::StatusOr<std::vector<DiskRead>> Fetch(ClientId client, const std::vector<BlockHeads>& wanted, FetchDone done);
  // `from_ram`: it was unpacked from RAM.
  void FinishRead(uint32_t slot, const absl::Status& status, uint64_t checksum, bool from_ram = false);
  absl::Status Release(ClientId client, absl::Span<const uint32_t> slots);
  // Somebody who read the block in RAM found other bytes than its checksum says: if that is so, as for a sample.
  void CheckBlock(const BlockName& name);
  // The chunk's summary while it is not on disk yet; nullptr: read it from the tier. NOT_FOUND: no such
  // chunk.
  absl::StatusOr<std::shared_ptr<const SummaryRecord>> FindSummary(const ChunkHash& chunk) const;

  // --- Write-back ---
  // The next step to write, nothing if one is under way or there is nothing to do.
  std::optional<WriteJob> TakeWrite();
  // The step is durable, except for `rejected` chunks whose bytes did not match their checksums.
  void FinishWrite(const std::vector<ChunkHash>& rejected);
  // The step failed: nobody knows whether it is durable. Everything in it is to be written again; what frees
  // room goes first, alone. `why` is shown to whom is refused for want of clean slots.
  void FailWrite(const WriteStep& step, absl::Status why);
  bool HasPendingWrites() const;
  // Drops what is clean and unheld from RAM; returns the blocks dropped.
  uint64_t DropRam();

  // (client, slots) to ask back, gathered since the last call.
  std::vector<std::pair<ClientId, uint32_t>> TakeReclaims();
  StoreStats stats() const;
  uint8_t* slot_memory(uint32_t slot) const { return memory_(slot); }

 private:
  struct Client {
    bool attached = true;
    absl::flat_hash_map<uint32_t, uint32_t> holds;  // slot -> count
    absl::flat_hash_set<uint32_t> reserved;
    absl::flat_hash_set<std::string> sessions;
  };
  struct Session {
    bool named = false;
    bool pinned = false;         // by either
    bool pin_requested = false;  // by a request; kept with the manifest
    ModelFingerprint model;
    uint64_t epoch = 0;
    ClientId writer = 0;  // 0: not open
    int64_t last_used_unix_s = 0;
    std::vector<ChunkHash> chunks;
    std::vector<uint32_t> tail_tokens;
    absl::flat_hash_set<ChunkHash> pins;  // matched or committed by the writer, kept until it closes
  };
  struct FetchTicket {
    ClientId client = 0;
    std::vector<FetchOutcome> results;
    size_t waiting = 0;
    FetchDone done;
  };
  struct Waiter {
    std::shared_ptr<FetchTicket> ticket;
    size_t index = 0;
  };
  struct Staging {
    ChunkHash chunk;
    uint64_t serial = 0;
    uint32_t layer = 0;
    uint64_t heads = kAllHeads;
    std::vector<Waiter> waiters;
  };

  absl::StatusOr<Client*> FindClient(ClientId client);
  absl::StatusOr<Session*> FindOpenSession(ClientId client, const std::string& session_id, uint64_t epoch);
  Chunk* FindChunk(const ChunkHash& hash) const;
  Chunk* FindWhole(const ChunkHash& hash) const;  // and not lost

  // block_store_sessions.cc
  absl::Status CheckManifest(const Session& session, absl::Span<const ChunkHash> chunks) const;
  void ReplaceManifest(Session* session, std::vector<ChunkHash> chunks);
  void Pin(Session* session, const ChunkHash& chunk);
  void Close(const std::string& session_id);
  void Save(const std::string& name);
  void EraseSession(const std::string& session_id);
  SessionRecord RecordOf(const std::string& name, const Session& session) const;
  // block_store_writes.cc
  void LoadChunk(Scanned<ChunkRecord> scanned);
  void LoadSession(SessionRecord record);
  void CollectGarbage(bool keep);

  // block_store_budget.cc
  // Keeps the disk within its budget: K/V of the sessions that were not used for longest goes, as far as nobody else
  // refers to it; their token ids stay. True if something went.
  bool KeepDiskBudget();
  uint64_t GiveUpBlocks(const std::string& name, Session* session);
  uint64_t DiskBudget() const;  // in bytes of blocks as they are in RAM
  uint64_t PinQuota() const;    // chunks
  absl::Status CheckPinQuota(const std::string& name, const Session& session) const;

  // block_store.cc, block_store_fetch.cc
  // Counts a pinned session's reference in or out.
  void Pinned(const ChunkHash& hash, int change);
  void PlaceIn(uint32_t slot, Chunk* chunk, uint32_t layer, SlotState state);
  void AddRef(const ChunkHash& hash);
  void Unref(const ChunkHash& hash);
  void EraseChunk(Chunk* chunk);
  ChunkInRam* RamOf(Chunk* chunk);     // made where there is none
  static void ForgetRam(Chunk* chunk);  // if there is nothing in it
  void DropBlocks(Chunk* chunk);
  void LoseBlocks(Chunk* chunk);
  void MarkLost(Chunk* chunk);
  absl::Status CheckCommit(const Client& client, const CommitArgs& args) const;
  void AdoptNew(Client* client, Chunk* chunk, CommitArgs args);
  CommitOutcome AdoptDuplicate(Client* client, Chunk* chunk, const CommitArgs& args);
  uint32_t TakeSlot(SlotState state);
  void Evict(uint32_t slot);
  void Hold(Client* client, uint32_t slot);
  absl::StatusOr<uint64_t> HeadsToRead(uint64_t wanted) const;
  void FetchFromDisk(Chunk* chunk, uint32_t layer, uint64_t heads, Waiter waiter, std::vector<DiskRead>* reads);
  void FinishHeads(uint32_t slot, const Staging& staging, const absl::Status& status, bool from_ram);
  Chunk* FindStaged(const Staging& staging) const;
  absl::Status FailRead(Chunk* chunk, const absl::Status& status);
  void Settle(const Waiter& waiter, const absl::Status& status, uint32_t slot, bool from_ram = false);
  void AskBack(uint32_t slots);
  void Record(TraceEvent event, const ChunkHash& chunk, uint32_t layer = 0) {
    if (options_.trace != nullptr) options_.trace->Add(event, chunk, layer);
  }
  void RecordRelease(uint32_t slot) {
    const Chunk* chunk = slots_.chunk(slot);
    if (chunk != nullptr) Record(TraceEvent::kRelease, chunk->hash, slots_.layer(slot));
  }
  absl::Status Exhausted(uint32_t wanted);
  int64_t Now() const;
  bool FailsSample(uint32_t slot);
  bool IsDamaged(uint32_t slot) const;
  void DropDamaged(Chunk* chunk, uint32_t layer);
  void TakeDirty(WriteJob* job);

  const BlockStoreOptions options_;
  KvGeometry geometry_;
  SlotMemory memory_;
  SlotTable slots_;
  GhostList ghosts_;
  ChunkIndex chunks_;
  absl::flat_hash_map<std::string, Session> sessions_;
  absl::flat_hash_map<ClientId, Client> clients_;
  absl::flat_hash_map<uint32_t, Staging> staging_;  // by slot
  std::vector<uint64_t> checksums_;                 // [slots], of the block in each
  uint32_t ram_hits_unchecked_ = 0;
  uint64_t next_serial_ = 1;
  uint64_t next_nameless_ = 1;
  uint64_t chunks_durable_ = 0;
  uint64_t chunks_lost_ = 0;
  uint64_t chunks_pinned_ = 0;

  // Write-back: what is to be written, and the one step under way.
  std::deque<std::pair<ChunkHash, uint64_t>> dirty_;  // (chunk, serial), in order of commit
  uint64_t chunks_dirty_ = 0;                         // of these, those that still exist
  absl::flat_hash_set<ChunkHash> to_delete_;
  absl::flat_hash_set<ChunkHash> to_drop_;  // blocks only, of chunks whose token ids are on disk
  absl::flat_hash_set<ChunkHash> tokens_to_put_;
  absl::flat_hash_set<std::string> sessions_to_put_;
  absl::flat_hash_set<std::string> sessions_to_delete_;
  bool write_under_way_ = false;
  std::vector<std::pair<ChunkHash, uint64_t>> writing_;
  std::vector<uint32_t> writing_slots_;
  std::vector<std::function<void(absl::Status)>> on_saved_;          // with the next step
  std::vector<std::function<void(absl::Status)>> on_saved_writing_;  // with the one under way
  absl::Status write_error_;  // of the last step

  uint32_t shortage_ = 0;
  StoreStats counters_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_STORE_BLOCK_STORE_H_
