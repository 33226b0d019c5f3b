// What a caller asks of the engine, and the stream of events it gets back.
#ifndef HGA_GPU_WORKER_ENGINE_REQUEST_H_
#define HGA_GPU_WORKER_ENGINE_REQUEST_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/engine/explain.h"
#include "gpu_worker/engine/sampler.h"

namespace hga {

// Asks for an explanation of what the last token of the input attends in one layer. That token is computed as an
// answer's, by itself.
struct AttentionProbe {
  uint32_t layer = 0;
  const SummaryMethod* method = nullptr;  // of the router's summaries
  std::optional<Explanation> result;  // written by the step thread before the request finishes
};

struct EngineRequest {
  std::string id;  // in the logs of all daemons
  std::vector<uint32_t> tokens;
  // With `append`, instead of `tokens`: what follows the session's tokens (a chat turn depends on the last of them).
  std::function<absl::StatusOr<std::vector<uint32_t>>(absl::Span<const uint32_t> session_tokens)> continuation;
  std::string session;  // empty: nothing is kept
  bool append = false;  // the input continues the session
  bool pin = false;     // the session, from now on
  uint32_t max_tokens = 256;  // 0: prefill only
  SamplingOptions sampling;
  std::vector<std::string> stop;
  bool routed = true;
  BudgetOptions budget;
  bool ignore_eos = false;
  std::shared_ptr<AttentionProbe> probe;  // nullptr: none. Needs max_tokens of 1.
};

// Blocks that attention asked for, by where they were found; keys: all that was selected of them in the key cache.
struct TierCounts {
  uint64_t held = 0, keys = 0, ram = 0, disk = 0, recomputed = 0;
};

enum class FinishReason { kStop, kLength, kPrefillOnly };

struct RequestStats {
  uint32_t prompt_tokens = 0, reused_tokens = 0, completion_tokens = 0;
  double ttft_s = 0, prefill_s = 0, decode_s = 0;
  TierCounts tiers;
  // Keys attended and keys of dense attention, summed over rows, layers and KV heads, each token's once: [prefill,
  // decode]. What follows counts work, steps that were repeated included.
  uint64_t attended_keys[2] = {0, 0}, dense_keys[2] = {0, 0};
  uint64_t dense_fallback_steps = 0, decode_steps = 0;
  uint64_t ring_exchanges = 0;  // layer exchanges with the router in decode steps
  uint64_t kv_rpcs_decode = 0;  // RPCs to the store that decode steps waited for
  std::vector<std::string> warnings;

  double attended_fraction(bool decode) const {
    return dense_keys[decode] == 0 ? 1.0 : static_cast<double>(attended_keys[decode]) / dense_keys[decode];
  }
};

struct EngineEvent {
  enum class Kind { kStarted, kProgress, kToken, kFinished, kFailed };
  Kind kind = Kind::kFailed;
  uint32_t done = 0;   // progress: tokens prefilled
  uint32_t total = 0;  // progress: tokens to prefill
  uint32_t token = 0;
  std::string text;
  FinishReason reason = FinishReason::kStop;
  RequestStats stats;   // started, finished
  absl::Status status;  // failed
};

// One per request. The step thread pushes, the caller's thread takes. Ends with kFinished or kFailed.
class EventStream {
 public:
  void Push(EngineEvent event) {
    std::lock_guard<std::mutex> lock(mu_);
    events_.push_back(std::move(event));
    changed_.notify_one();
  }
  // The next event, or none within `timeout`.
  std::optional<EngineEvent> Next(absl::Duration timeout) {
    std::unique_lock<std::mutex> lock(mu_);
    changed_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [&] { return !events_.empty(); });
    if (events_.empty()) return std::nullopt;
    EngineEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  // Ends the request at the next step boundary with `why`, which is not OK.
  void Cancel(absl::Status why) {
    std::lock_guard<std::mutex> lock(mu_);
    if (cancelled_.ok()) cancelled_ = std::move(why);
  }
  absl::Status cancelled() const {
    std::lock_guard<std::mutex> lock(mu_);
    return cancelled_;
  }

 private:
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::deque<EngineEvent> events_;  // guarded by mu_
  absl::Status cancelled_;          // guarded by mu_
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_REQUEST_H_
