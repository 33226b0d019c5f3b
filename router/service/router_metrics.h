// What the router counts: one place for the metrics page and for GetStats.
#ifndef HGA_ROUTER_SERVICE_ROUTER_METRICS_H_
#define HGA_ROUTER_SERVICE_ROUTER_METRICS_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "common/metrics/metric_factory.h"
#include "router/index/select.h"
#include "router/index/summary_index.h"

namespace hga {

// Counters of one transport.
struct ExchangeMetrics {
  prometheus::Counter* exchanges;
  std::map<absl::StatusCode, prometheus::Counter*> errors;
  prometheus::Histogram* seconds;

  uint64_t count() const { return static_cast<uint64_t>(exchanges->Value()); }
};

// Thread-safe.
class RouterMetrics {
 public:
  explicit RouterMetrics(const std::shared_ptr<prometheus::Registry>& registry);

  // After each exchange: how it went, how long the answer took, how many blocks got a selection, where its time went.
  void CountExchange(const ExchangeMetrics& transport, const absl::Status& status,
                     std::chrono::steady_clock::duration took, size_t selections, const SelectTimes& times);
  void CountOpened(const OpenedSequence& opened, std::chrono::steady_clock::duration took);
  void CountAppended() { chunks_appended_->Increment(); }
  void SetIndex(const SummaryIndex::Totals& totals);
  void SetWorkers(size_t workers) { workers_->Set(static_cast<double>(workers)); }
  // What closed sequences' summaries may take.
  void SetCacheLimit(uint64_t bytes) { cache_limit_bytes_->Set(static_cast<double>(bytes)); }

  const ExchangeMetrics& ring() const { return ring_; }
  const ExchangeMetrics& stream() const { return stream_; }
  uint64_t selections() const { return static_cast<uint64_t>(selections_->Value()); }

 private:
  enum Stage { kMessage, kPrepare, kCoarse, kFine, kPick, kStages };

  MetricFactory make_;
  ExchangeMetrics ring_, stream_;
  prometheus::Counter* selections_;
  std::array<prometheus::Counter*, kStages> stages_;
  prometheus::Gauge *index_bytes_, *index_chunks_, *cache_limit_bytes_, *sequences_, *workers_;
  prometheus::Histogram* open_seconds_;
  prometheus::Counter *chunks_remembered_, *chunks_appended_;
  std::mutex mu_;
  prometheus::Counter* chunks_rebuilt_;  // raised under mu_
};

}  // namespace hga

#endif  // HGA_ROUTER_SERVICE_ROUTER_METRICS_H_
