// What the engine reports to Prometheus and to GetStats.
#ifndef HGA_GPU_WORKER_ENGINE_ENGINE_METRICS_H_
#define HGA_GPU_WORKER_ENGINE_ENGINE_METRICS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "gpu_worker/engine/request.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace hga {

struct EngineTotals {
  uint64_t requests = 0, active = 0, prefill_tokens = 0, decode_tokens = 0, dense_fallback_steps = 0;
  TierCounts tiers;
};

// Thread-safe.
class EngineMetrics {
 public:
  enum class Tier { kDevice, kHeld, kRam, kDisk, kRecomputed };

  explicit EngineMetrics(std::shared_ptr<prometheus::Registry> registry);

  void CountRequest(const std::string& outcome);
  void SetActive(uint32_t sequences);
  void SetRouterAttached(bool attached);
  void CountTokens(uint64_t prefill, uint64_t decode);
  void CountBlocks(Tier tier, uint64_t blocks);
  void CountFallbackStep();
  void ObserveFirstToken(double seconds);
  void ObserveToken(double seconds);
  void ObserveRouteWait(double seconds);
  void ObserveFetch(double seconds);
  void ObserveAttendedFraction(double fraction);

  EngineTotals totals() const;

 private:
  const std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>* requests_;
  prometheus::Counter* prefill_tokens_;
  prometheus::Counter* decode_tokens_;
  prometheus::Counter* fallback_steps_;
  std::array<prometheus::Counter*, 5> blocks_;
  prometheus::Gauge* active_;
  prometheus::Gauge* router_attached_;
  prometheus::Histogram* first_token_;
  prometheus::Histogram* token_;
  prometheus::Histogram* route_wait_;
  prometheus::Histogram* fetch_;
  prometheus::Histogram* attended_;
  std::atomic<uint64_t> request_count_{0};
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_ENGINE_METRICS_H_
