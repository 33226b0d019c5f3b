// One request while it is computed.
#ifndef HGA_GPU_WORKER_ENGINE_SEQUENCE_H_
#define HGA_GPU_WORKER_ENGINE_SEQUENCE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gpu_worker/engine/block_set.h"
#include "gpu_worker/engine/request.h"
#include "gpu_worker/engine/stop_text.h"

namespace hga {

// Owned by the step thread.
struct Sequence {
  enum class State {
    kOpening,   // the sealer is looking up what is there
    kRunning,
    kFlushing,  // finished, but the last chunk lacks a computed token; since a cut, more than that
    kEnding,    // waits for its commits
    kClosing,   // the sealer is saving the session
  };

  Sequence(uint64_t id, uint32_t layers, std::shared_ptr<const EngineRequest> req, std::shared_ptr<EventStream> stream)
      : id(id), request(std::move(req)), events(std::move(stream)), blocks(layers), sampler(request->sampling),
        text(request->stop) {}

  const uint64_t id;
  const std::shared_ptr<const EngineRequest> request;
  const std::shared_ptr<EventStream> events;
  State state = State::kOpening;

  std::vector<uint32_t> tokens;   // prompt and answer
  uint32_t prompt_tokens = 0;
  uint32_t computed = 0;          // tokens whose K/V is there
  uint32_t counted = 0;           // tokens whose keys are in `stats`: what is computed again is not counted again
  std::vector<ChunkHash> hashes;  // of the sealed chunks
  uint32_t committed = 0;         // chunks that the store has, as a prefix
  uint32_t seals_pending = 0;
  std::optional<uint32_t> cut_to;  // chunks to go back to once no seal is pending
  int cuts = 0;
  uint32_t lost_from = 0;          // most chunks that the store had before a cut
  bool window_lost = false;        // since a cut: no step before sink and window are held again
  int window_failures = 0;
  absl::Time window_at = absl::InfinitePast();  // not before

  int room_failures = 0;                      // of its last steps, which found no room for their blocks
  absl::Time room_at = absl::InfinitePast();  // since such a step: no other before

  BlockSet blocks;
  std::deque<std::vector<HeldBlock>> spare;  // reserved chunks, not in use yet
  uint32_t reserves_pending = 0;
  int reserve_failures = 0;
  absl::Time reserve_at = absl::InfinitePast();  // not before

  Sampler sampler;
  StopText text;

  bool fallback = false;          // routed, but there is no router: dense
  bool reattaching = false;
  bool warned = false;
  uint64_t route_generation = 0;  // the attachment that knows the sequence
  uint64_t refused_generation = 0;  // the attachment that did not take it
  uint32_t acked = 0;             // chunks [0, acked) may be routed over

  RequestStats stats;
  absl::Time accepted = absl::Now(), started, first_token;
  absl::Status end;  // how it ends: OK, then `reason`
  FinishReason reason = FinishReason::kStop;

  bool runs() const { return state == State::kRunning || state == State::kFlushing; }
  bool answering() const { return stats.completion_tokens > 0; }
  // Tokens that are to be prefilled: in a prefill-only request what fills chunks.
  uint32_t target(uint32_t chunk_tokens) const {
    const auto all = static_cast<uint32_t>(tokens.size());
    if (answering()) return prompt_tokens;
    if (request->probe != nullptr) return all - 1;
    return request->max_tokens == 0 ? all / chunk_tokens * chunk_tokens : all;
  }
  // The next token computed is the last there is.
  bool at_last() const { return computed + 1 == tokens.size(); }
  // One row of a decode batch; else the rest is prefilled. After a cut the answer's tokens are computed again as they
  // were, so that what follows them is the same.
  bool decoding() const {
    return answering() ? computed >= prompt_tokens : request->probe != nullptr && at_last();
  }
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_SEQUENCE_H_
