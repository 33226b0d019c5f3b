// Everything that the engine asks of the store and the router outside a step, in order, on one thread.
//
// A lent block stays readable at its place until the step thread has taken the event with what replaces it. The store
// frees the copies of a chunk that it has already and not yet on disk, so such a duplicate is found first (kDuplicate:
// read from these blocks from now on) and committed once the step thread reads the store's own.
#ifndef HGA_GPU_WORKER_ENGINE_SEALER_H_
#define HGA_GPU_WORKER_ENGINE_SEALER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "common/base/helpers.h"
#include "common/base/serial_executor.h"
#include "common/kv/summary.h"
#include "gpu_worker/engine/attend_plan.h"
#include "gpu_worker/engine/request.h"
#include "gpu_worker/engine/router_link.h"
#include "kv_store/client/kv_client.h"

namespace hga {

// A block of the matched prefix that the first step needs.
struct StartBlock {
  uint32_t chunk = 0;
  uint32_t layer = 0;
  HeldBlock block;
};

struct StartedSequence {
  std::vector<uint32_t> tokens;    // the whole prompt
  std::vector<ChunkHash> hashes;   // of the chunks that need no computing
  std::vector<StartBlock> blocks;
  TierCounts tiers;
};

struct SealerEvent {
  enum class Kind {
    kOpened,     // status, opened
    kReserved,   // status, blocks [layers]: one chunk
    kDuplicate,  // chunk, blocks: the store's own; commit: to be handed to CommitDuplicate, or to FindAgain
    kCommitted,  // status, chunk, blocks [layers]: read holds, or the lent ones back on failure
    kRouted,     // generation, acked: the router knows chunks [0, acked)
    kRouteLost,  // generation: it does not know the sequence (any more)
    kClosed,     // status of saving the session
  };
  Kind kind = Kind::kClosed;
  uint64_t sequence_id = 0;
  absl::Status status;
  uint32_t chunk = 0;
  std::vector<HeldBlock> blocks;
  std::optional<CommitChunk> commit;
  uint64_t generation = 0;
  uint32_t acked = 0;
  bool at_router = false;  // kOpened: the router of `generation` knows the sequence
  bool reattach = false;   // kRouted, kRouteLost: the answer to Reattach or CutBack
  std::unique_ptr<StartedSequence> opened;
};

struct SealerOptions {
  AttendShape shape;
  ModelFingerprint model;
  uint32_t context_tokens = 0;
  const SummaryMethod* method = nullptr;
  uint32_t threads = 1;  // that sum up a chunk's keys
};

struct SealTask {
  uint64_t sequence_id = 0;
  uint32_t chunk = 0;
  ChunkHash hash, parent;
  std::vector<uint32_t> token_ids;  // [chunk_tokens]
  std::vector<HeldBlock> blocks;    // [layers], complete
  bool checkpoint = false;          // then save the session's manifest up to this chunk
};

// Called from the step thread; answers through `deliver`, in order, from its own thread.
class Sealer {
 public:
  Sealer(const SealerOptions& options, KvClient* store, RouterLink* link, std::function<void(SealerEvent)> deliver);

  void Open(uint64_t sequence_id, std::shared_ptr<const EngineRequest> request);
  void Reserve(uint64_t sequence_id);
  void Seal(SealTask task);
  void CommitDuplicate(uint64_t sequence_id, uint32_t chunk, CommitChunk commit, bool checkpoint);
  // Instead, when the room of the duplicate's blocks was needed: looks for them again.
  void FindAgain(uint64_t sequence_id, uint32_t chunk, CommitChunk commit, bool checkpoint);
  // Opens the sequence at the router that is attached now.
  void Reattach(uint64_t sequence_id);
  // The sequence goes on from `chunks` chunks.
  void CutBack(uint64_t sequence_id, uint32_t chunks);
  // save: the session's manifest is its first `chunks` chunks and `tail`; else its content stays as it was.
  void Close(uint64_t sequence_id, bool save, uint32_t chunks, std::vector<uint32_t> tail);

 private:
  struct Record {
    std::string request_id;
    OpenedSession session;
    bool named = false;
    bool routed = false;
    std::vector<ChunkHash> hashes;  // sealed so far
    RouterLink::Attachment route;   // client nullptr: none
    absl::Status failed;            // of the first commit that failed
  };

  // Runs `work` on the executor's thread, in the name of the sequence's request.
  void Post(uint64_t id, std::function<void()> work);
  absl::StatusOr<std::unique_ptr<StartedSequence>> OpenNow(uint64_t id, const EngineRequest& request, Record* record);
  absl::StatusOr<std::vector<uint32_t>> PromptOf(const EngineRequest& request);
  absl::Status FetchStart(StartedSequence* opened);
  absl::Status FetchStartOnce(StartedSequence* opened, uint32_t* lost_chunk);
  void HoldRest(StartedSequence* opened);
  void OpenRoute(uint64_t id, Record* record);
  void ReopenRoute(uint64_t id, Record* record);
  absl::StatusOr<uint32_t> IndexAtRouter(uint64_t id, Record* record);
  absl::Status SummarizeAgain(uint64_t id, const Record& record, uint32_t* indexed);
  absl::StatusOr<std::vector<HeldBlock>> FetchChunk(const ChunkHash& hash);
  void SealNow(SealTask task);
  void AppendSummary(const SealTask& task, const std::string& summary, Record* record);
  absl::StatusOr<std::vector<HeldBlock>> FindDuplicate(const ChunkHash& hash);
  void CommitIfNew(uint64_t id, uint32_t chunk, CommitChunk commit, bool checkpoint);
  void CommitNow(uint64_t id, uint32_t chunk, CommitChunk commit, bool checkpoint);

  // Constant after construction.
  const SealerOptions options_;
  KvClient* const store_;
  RouterLink* const link_;
  const std::function<void(SealerEvent)> deliver_;

  // Owned by the executor's thread.
  std::unordered_map<uint64_t, Record> records_;
  Helpers helpers_;

  SerialExecutor executor_;  // last: ends first
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_SEALER_H_
