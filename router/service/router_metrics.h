// What the router counts: one place for the metrics page and for GetStats.
#ifndef HGA_ROUTER_SERVICE_ROUTER_METRICS_H_
#define HGA_ROUTER_SERVICE_ROUTER_METRICS_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "router/index/summary_index.h"

namespace hga {

// Counters of one transport.
struct ExchangeMetrics {
  prometheus::Counter* exchanges;
  prometheus::Counter* errors;
  prometheus::Histogram* seconds;

  uint64_t count() const { return static_cast<uint64_t>(exchanges->Value()); }
};

// Thread-safe.
class RouterMetrics {
 public:
  explicit RouterMetrics(const std::shared_ptr<prometheus::Registry>& registry);

  // After each exchange: how it went, how long the answer took, how many blocks got a selection.
  void CountExchange(const ExchangeMetrics& transport, const absl::Status& status,
                     std::chrono::steady_clock::duration took, size_t selections);
  void SetIndex(const SummaryIndex::Totals& totals);
  void SetWorkers(size_t workers) { workers_->Set(static_cast<double>(workers)); }

  const ExchangeMetrics& ring() const { return ring_; }
  const ExchangeMetrics& stream() const { return stream_; }
  uint64_t selections() const { return static_cast<uint64_t>(selections_->Value()); }

 private:
  const std::shared_ptr<prometheus::Registry> registry_;
  ExchangeMetrics ring_, stream_;
  prometheus::Counter* selections_;
  prometheus::Gauge* index_bytes_;
  prometheus::Gauge* index_chunks_;
  prometheus::Gauge* sequences_;
  prometheus::Gauge* workers_;
  std::mutex mu_;
  prometheus::Counter* rebuilt_chunks_;  // raised under mu_
};

}  // namespace hga

#endif  // HGA_ROUTER_SERVICE_ROUTER_METRICS_H_
