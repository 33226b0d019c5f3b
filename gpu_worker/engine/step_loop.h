// The thread that owns all sequences: takes requests and the sealer's answers, picks steps, runs them, hands out
// tokens.
//
// A step is a prefill batch of one sequence or one token of each decoding sequence; they alternate where both exist.
#ifndef HGA_GPU_WORKER_ENGINE_STEP_LOOP_H_
#define HGA_GPU_WORKER_ENGINE_STEP_LOOP_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "gpu_worker/engine/engine_metrics.h"
#include "gpu_worker/engine/engine_model.h"
#include "gpu_worker/engine/key_cache.h"
#include "gpu_worker/engine/sealer.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/engine/step_runner.h"
#include "gpu_worker/engine/step_trace.h"

namespace hga {

class StepLoop {
 public:
  StepLoop(const EngineModel& model, const EngineOptions& options, Backend* backend, KvClient* store,
           RouterLink* link, EngineMetrics* metrics, StepTrace* trace);
  // Stops as Stop does and waits for the sequences to be saved.
  ~StepLoop();

  // Thread-safe. RESOURCE_EXHAUSTED: too many requests wait. UNAVAILABLE: stopping.
  absl::Status Submit(std::shared_ptr<const EngineRequest> request, std::shared_ptr<EventStream> events);
  // Thread-safe. Ends every request with UNAVAILABLE, after saving what is complete, and refuses new ones.
  void Stop();

 private:
  using SequencePtr = std::unique_ptr<Sequence>;

  void Loop();
  void TakeWork();
  void Activate();
  void CheckCancelled();

  // --- Answers of the sealer: step_loop_events.cc ---
  void Handle(SealerEvent event);
  void OnOpened(Sequence* s, SealerEvent event);
  void OnDuplicate(Sequence* s, SealerEvent event);
  void OnCommitted(Sequence* s, SealerEvent event);

  // --- Steps ---
  bool RunStep();
  std::vector<StepPart> PickStep();
  const AttendShape& ShapeOf(const Sequence& s) const { return s.decoding() ? shapes_.decode : shapes_.prefill; }
  bool Ready(Sequence* s, uint32_t rows);
  uint32_t NextRows(const Sequence& s) const;
  std::vector<StepPart> PickPrefill();
  std::vector<StepPart> PickDecode();

  // --- Their results: step_loop_results.cc ---
  void FinishPart(const StepPart& part);
  void Advance(Sequence* s, const StepPart& part);
  absl::StatusOr<uint32_t> Sample(const StepPart& part);
  void SealComplete(Sequence* s);
  bool Checkpoint(const Sequence& s, uint32_t chunk) const;
  void TakeToken(Sequence* s, uint32_t token);
  void End(Sequence* s, const absl::Status& status, FinishReason reason = FinishReason::kStop);
  void Save(Sequence* s);
  void OnClosed(Sequence* s, const absl::Status& saved);
  void Warn(Sequence* s, const std::string& warning);

  // --- Room in the arena: step_loop_room.cc ---
  void ReserveAhead(Sequence* s);
  void OnReserved(Sequence* s, SealerEvent event);
  bool Cover(Sequence* s, uint32_t rows);
  uint32_t MakeRoom(uint64_t tick, uint32_t wanted, bool passing = false);
  uint32_t ReleaseBlocks(uint64_t tick, uint32_t wanted, bool passing);
  std::vector<HeldBlock> PagesForKeys(uint32_t count);
  uint32_t GiveBackPages(uint32_t wanted);
  void NoteShortage();
  void WaitForRoom(Sequence* s, const absl::Status& status);
  uint64_t BlocksOfAll() const;
  bool ShortOfRoom() const { return BlocksOfAll() > room_blocks_; }
  uint64_t InArena() const;
  int64_t RoomToKeep() const;  // only while short of room

  // --- What is lost: step_loop_recovery.cc ---
  void FollowRouter(Sequence* s);
  void CutBack(Sequence* s);
  void RestoreWindow(Sequence* s);
  absl::Status FetchWindow(Sequence* s, uint32_t* lacking);

  // Constant after construction.
  const EngineModel model_;
  const EngineOptions options_;
  const AttendShapes shapes_;
  Backend* const backend_;
  KvClient* const store_;
  RouterLink* const link_;
  EngineMetrics* const metrics_;
  StepTrace* const trace_;

  struct Pending {
    std::shared_ptr<const EngineRequest> request;
    std::shared_ptr<EventStream> events;
    absl::Time accepted;
  };
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<Pending> submitted_;    // guarded by mu_
  std::deque<SealerEvent> answers_;  // guarded by mu_
  uint32_t live_ = 0;                // requests not ended yet; guarded by mu_
  bool stopping_ = false;            // guarded by mu_

  // Owned by the step thread.
  std::deque<Pending> waiting_;
  std::vector<SequencePtr> active_;
  uint64_t next_id_ = 1;
  uint64_t prefill_turn_ = 0;  // id of the sequence that was prefilled last
  bool prefilled_last_ = false;
  bool alone_last_ = false;  // the last decode step was that of a sequence which had found no room
  StepLogits logits_;

  bool pages_refused_ = false;      // to the key cache, since the arena was short
  std::unique_ptr<KeyCache> keys_;  // nullptr: none
  std::unique_ptr<StepRunner> runner_;
  // Slots that the arena had for us when it was short last, and the most of them; until then nothing is known.
  uint64_t room_blocks_ = UINT64_MAX, most_room_ = 0;
  std::unique_ptr<Sealer> sealer_;
  std::thread thread_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_STEP_LOOP_H_
