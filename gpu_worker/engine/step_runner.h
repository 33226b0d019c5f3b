// Computes one step: a prefill batch of one sequence, or one token of each of several.
#ifndef HGA_GPU_WORKER_ENGINE_STEP_RUNNER_H_
#define HGA_GPU_WORKER_ENGINE_STEP_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/engine/attend_plan.h"
#include "gpu_worker/engine/early_fetch.h"
#include "gpu_worker/engine/engine_metrics.h"
#include "gpu_worker/engine/key_cache.h"
#include "gpu_worker/engine/router_link.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/engine/step_budget.h"
#include "gpu_worker/engine/step_trace.h"
#include "kv_store/client/kv_client.h"
#include "router/client/dense_route_client.h"

namespace hga {

// Rows of one sequence in a step. All blocks that it attends always, and those it writes, are in its block set.
struct StepPart {
  Sequence* sequence = nullptr;
  uint32_t rows = 0;
  bool want_logits = false;  // of its last row

  // Result. A part that failed has no usable row; the others are not touched by it.
  absl::Status status;
  std::optional<uint32_t> lost_chunk;  // the store lost this chunk: compute again from there
  bool no_room = false;                // for its blocks, for now: the same rows may be computed again
  uint32_t logits_row = 0;
  uint64_t attended_keys = 0, dense_keys = 0;  // as RequestStats counts them
};

// What a step's wanting rows give, [parts with want_logits]: all logits, or the best, as the parts' samplers need.
struct StepLogits {
  uint32_t top_count = 0;        // for each row; 0: all were made
  std::vector<float> all;        // [rows][vocab]
  std::vector<TokenLogit> top;   // [rows][top_count]
  std::vector<uint64_t> masses;  // [rows], with top_count; see TopRow
};

// Room in the arena, as who knows all sequences has it.
struct StepRoom {
  // Releases blocks that were not used at `tick`; returns how many. passing: what comes will be given back.
  std::function<uint32_t(uint64_t tick, uint32_t wanted, bool passing)> make;
  // While the key cache is used: whether what is held may stay so, and `more` blocks beside it.
  std::function<bool(uint32_t more)> may_hold;
};

// Step thread only.
class StepRunner {
 public:
  // early_selection: see EngineOptions. keys: nullptr: none.
  StepRunner(Backend* backend, KvClient* store, RouterLink* link, EngineMetrics* metrics, StepTrace* trace,
             const AttendShapes& shapes, bool early_selection, KeyCache* keys, StepRoom room);

  // Whether keys of what is not held go through the key cache: where the arena has no room for the blocks of what is
  // computed. It begins by itself in the middle of a step when the store has no room.
  void UseKeyCache(bool use) { short_of_room_ = use; }
  // Blocks held for the layer at hand alone.
  size_t passing_blocks() const { return fetched_.size(); }

  // An error is the backend's and ends all parts. Where no part is left the step ends early.
  absl::Status Run(std::vector<StepPart>* parts, StepLogits* logits);

  // All logits of the last step, into `logits`, where its best did not decide.
  absl::Status TakeAllLogits(StepLogits* logits);

  // Counts layers of all steps so far; blocks used in the current layer carry it.
  uint64_t tick() const { return tick_; }

 private:
  // Rows of one chunk of one part, all or a part of them: what is routed and attended together.
  struct Block {
    StepPart* part = nullptr;
    const AttendShape* shape = nullptr;
    bool dense = false;       // by its position
    uint32_t most_rows = 0;   // begins at a multiple of it, or with the part
    uint32_t chunk = 0, first_row = 0, rows = 0, first_position = 0;
    ChunkRange routed;
    std::optional<StepBudget> budget;
    // Of the layer at hand; nullptr: nothing.
    const std::vector<HeadSelection>* selection = nullptr;
    const std::vector<float>* missed = nullptr;  // [rows][query_heads]
    bool by_keys = false;  // through the key cache: `found`
    FoundKeys found;
  };

  // Of the step at hand, reported once at its end: attention counts thousands of blocks in one step.
  struct StepCounts {
    uint64_t held = 0, keys = 0, ram = 0, disk = 0;
    uint64_t spared_bytes = 0;  // of `disk`: heads that were not asked for
    uint64_t attended_keys[2] = {0, 0}, dense_keys[2] = {0, 0};  // [prefill, decode]
    uint64_t early_keys = 0, early_used_keys = 0, early_blocks = 0, early_used_blocks = 0;
    uint64_t cached_keys = 0, copied_keys = 0;
  };

  // What the router was asked a layer ahead. The request points into the rest.
  struct Guess {
    bool posted = false;
    std::vector<bf16> queries;
    std::vector<float> attended;
    RouteRequest request;
    RouteResponse response;   // empty: nothing was guessed for the layer at hand
    std::vector<Block*> blocks;
  };

  void LayOut(std::vector<StepPart>* parts);
  void SetBudget(Block* block) const;
  absl::Status RunLayer(uint32_t layer);
  absl::Span<const ChunkHash> Finished(const Block& block) const;
  absl::Status AttendAlways(uint32_t layer);
  absl::Status AttendSelected(uint32_t layer);
  absl::Status AddResidual();
  absl::Status TakeLogits(const std::vector<StepPart>& parts, StepLogits* logits);
  void CountKeys();
  void AnswerProbes(uint32_t layer);
  void Report();

  // --- What is asked of the router: step_runner_routes.cc ---
  RouteBlock RouteOf(uint32_t layer, const bf16* queries, const float* attended, Block* block) const;
  void PostRoutes(uint32_t layer);
  void WaitRoutes();
  void LoseRouter(const absl::Status& why);
  // What was asked for the block in the layer at hand; nullptr: nothing.
  const RouteBlock* AskedFor(const Block& block, bool* by_router) const;

  // --- Selections asked early: step_runner_early.cc ---
  void PostGuess(uint32_t layer);
  // Once the layer before is on its way.
  absl::Status FollowGuess(uint32_t layer);
  void WaitGuess();
  std::vector<uint32_t> ChunksGuessed(uint32_t layer, size_t i);
  void FetchForGuess(uint32_t layer);
  absl::Status PrefetchForGuess(uint32_t layer);
  void TakeEarlyBlocks(uint32_t layer);
  void DropGuess();

  // --- Blocks that are not held: step_runner_fetch.cc ---
  static bool Probed(const Block& block, uint32_t layer);
  static std::vector<uint32_t> ChunksRead(const Block& block, uint32_t layer);
  void FetchMissing(uint32_t layer);
  struct Wanted {
    Block* block;
    uint32_t chunk;
    uint64_t heads;  // kAllHeads: the block, to be held if there is room; else what keys are copied from and goes again
  };
  std::vector<Wanted> FindMissing(uint32_t layer);
  absl::Status FetchOnce(uint32_t layer, std::vector<Wanted>* wanted);
  uint64_t BytesWithout(uint64_t heads) const;

  // --- Keys of blocks that find no room: step_runner_keys.cc ---
  static BlockOfChunk HeldBlocks(const Block& block, uint32_t layer);
  bool SelectsFew(const Block& block, uint32_t layer) const;
  void FindKeys(uint32_t layer);
  void FillKeyCache(uint32_t layer);
  void KeepOrGiveBack(Block* block, uint32_t chunk, uint64_t heads);
  void GiveBackFetched(uint32_t layer);
  // Of a key and its value, as rows hold them.
  uint64_t key_bytes() const {
    return 2 * uint64_t{geometry_.head_dim} * geometry_.element_bytes() + geometry_.scale_bytes();
  }

  // Constant after construction.
  Backend* const backend_;
  KvClient* const store_;
  RouterLink* const link_;
  EngineMetrics* const metrics_;
  StepTrace* const trace_;
  const AttendShapes shapes_;
  const KvGeometry& geometry_;  // of shapes_
  KeyCache* const keys_;
  const StepRoom room_;

  // Owned by the step thread; kept between steps to save allocations.
  DenseRouteClient dense_;
  uint64_t tick_ = 0, step_ = 0;
  absl::Time began_;  // the step at hand
  StepCounts counts_;
  bool short_of_room_ = false;
  std::vector<std::pair<Sequence*, uint32_t>> fetched_;  // chunks that came for their keys, for the layer at hand
  DeviceTierUse reported_;
  RouteMirrorUse reported_selections_;
  RouterLink::Attachment router_;
  std::vector<BatchRow> rows_;
  std::vector<KvRow> kv_rows_;
  std::vector<Block> blocks_;
  RouteRequest router_request_, dense_request_;
  std::vector<Block*> router_blocks_, dense_blocks_;
  bool posted_ = false;
  const float* attended_ = nullptr;  // of all rows of the layer at hand; only a router asks for it
  const std::unique_ptr<EarlyFetch> early_;  // nullptr: nothing is asked early
  Guess guess_;
  RouteResponse router_response_, dense_response_;
  AttendPlan plan_;
  std::vector<float> missed_;  // [rows][query_heads]
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_STEP_RUNNER_H_
