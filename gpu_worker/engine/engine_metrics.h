// What the engine reports to Prometheus and to GetStats.
#ifndef HGA_GPU_WORKER_ENGINE_ENGINE_METRICS_H_
#define HGA_GPU_WORKER_ENGINE_ENGINE_METRICS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/metrics/metric_factory.h"
#include "gpu_worker/engine/request.h"

namespace hga {

struct EngineTotals {
  uint64_t requests = 0, active = 0, prefill_tokens = 0, decode_tokens = 0, dense_fallback_steps = 0;
  TierCounts tiers;
};

// Thread-safe. Names that other inference servers have are theirs, behind `hga_`; all carry the model's name.
class EngineMetrics {
 public:
  enum class Tier { kDevice, kKeys, kHeld, kRam, kDisk, kMiss };

  // registry nullptr: nothing is counted, to measure what counting costs. block_bytes: of one K/V block.
  EngineMetrics(std::shared_ptr<prometheus::Registry> registry, const std::string& model_name, uint64_t block_bytes);

  // --- Requests ---
  void SetRequests(size_t running, size_t waiting);
  // Once its prompt is known: how long it waited, and what of the prompt the store had.
  void ObserveStart(double queue_seconds, uint32_t prompt_tokens, uint32_t reused_tokens);
  void ObserveFirstToken(double seconds);
  void ObserveToken(double seconds);
  void ObserveEnd(FinishReason reason, double seconds, const RequestStats& stats);
  void CountFailure(absl::StatusCode code);

  // --- Steps ---
  // decode: rows of answers; else of prompts.
  void ObserveStep(bool decode, double seconds);
  void CountPrefill(uint32_t tokens);
  // spared_bytes: of their KV heads that were not asked for.
  void CountBlocks(Tier tier, uint64_t blocks, uint64_t spared_bytes = 0);
  // K/V that attention found in the device's memory, in bytes, and that was brought there.
  void CountDevice(uint64_t hit_bytes, uint64_t fetched_bytes);
  // Blocks that needed not be read since the key cache had all that was selected of them; keys found there and copied
  // there, in bytes.
  void CountKeyCache(uint64_t blocks, uint64_t hit_bytes, uint64_t copied_bytes);
  // Selections for answers' tokens while a device mirrors the router: made there, and by the router.
  void CountSelections(uint64_t on_device, uint64_t by_router);
  // Keys that were attended, and those a dense model would have.
  void CountKeys(bool decode, uint64_t attended, uint64_t dense);
  // Of what was guessed a layer ahead, by whether it then was selected: keys, and blocks that were fetched for it.
  void CountEarly(uint64_t keys, uint64_t used_keys, uint64_t blocks, uint64_t used_blocks);
  void ObserveRouteWait(double seconds);
  void ObserveFetch(double seconds);

  // --- The daemons beside it ---
  void SetAttached(bool router, bool kv_store);
  void CountFallbackStep();
  void CountGivenBack(uint64_t blocks);
  void CountCutBack();

  EngineTotals totals() const;

 private:
  void DeclareRequests(MetricFactory* make);
  void DeclareSteps(MetricFactory* make);
  void Count(Tier tier, double blocks, double bytes);

  const bool on_;
  const std::shared_ptr<prometheus::Registry> registry_;
  const double block_bytes_;
  std::atomic<uint64_t> request_count_{0};

  prometheus::Gauge *running_, *waiting_, *router_attached_, *kv_store_attached_;
  prometheus::Histogram *queue_, *first_token_, *token_, *latency_, *prefill_time_, *decode_time_;
  prometheus::Histogram *request_prompt_tokens_, *request_generation_tokens_, *attended_ratio_;
  std::array<prometheus::Counter*, 3> success_;  // by FinishReason
  std::map<absl::StatusCode, prometheus::Counter*> failure_;
  prometheus::Counter *prompt_tokens_, *generation_tokens_, *prefill_tokens_, *cache_queries_, *cache_hits_;
  prometheus::Histogram *step_[2], *route_wait_, *fetch_;  // step_: [prefill, decode]
  prometheus::Counter *attended_keys_[2], *dense_keys_[2];
  std::array<prometheus::Counter*, 6> blocks_, bytes_;  // by Tier
  prometheus::Counter *fallback_steps_, *given_back_, *cut_backs_, *device_fetched_, *keys_copied_;
  prometheus::Counter* selections_[2];  // [router, device]
  prometheus::Counter *early_keys_[2], *early_blocks_[2];  // [not used, used]
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_ENGINE_METRICS_H_
