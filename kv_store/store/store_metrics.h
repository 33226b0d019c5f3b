// kv_store's page of metrics.
#ifndef HGA_KV_STORE_STORE_STORE_METRICS_H_
#define HGA_KV_STORE_STORE_STORE_METRICS_H_

#include <functional>
#include <memory>
#include <vector>

#include "common/metrics/metric_factory.h"
#include "kv_store/store/block_store.h"
#include "kv_store/tier/kv_tier.h"

namespace hga {

// What is counted elsewhere is declared with the field it is copied from; the rest is observed here.
class StoreMetrics {
 public:
  explicit StoreMetrics(std::shared_ptr<prometheus::Registry> registry);

  // Brings the page up to `stats` and `tier`. By one thread.
  void Update(const StoreStats& stats, const TierStats& tier);
  // Thread-safe.
  void SetArenaBytes(uint64_t bytes) { arena_bytes_->Set(static_cast<double>(bytes)); }
  void ObserveFetch(double seconds) { fetch_seconds_->Observe(seconds); }
  void ObserveDiskRead(double seconds) { disk_read_seconds_->Observe(seconds); }
  void ObserveWrite(double seconds) { write_seconds_->Observe(seconds); }
  void CountWriteError() { write_errors_->Increment(); }
  void CountRingExchange() { ring_exchanges_->Increment(); }

 private:
  template <typename Metric>
  struct Copied {
    Metric* metric;
    std::function<double(const StoreStats&, const TierStats&)> value;
  };
  void AddTotal(const char* name, const char* help, uint64_t StoreStats::*field, const MetricLabels& labels = {});
  void AddTotal(const char* name, const char* help, uint64_t TierStats::*field, const MetricLabels& labels = {});
  void AddLevel(const char* name, const char* help, uint64_t StoreStats::*field);
  void AddLevel(const char* name, const char* help, uint64_t TierStats::*field);
  void DeclareStore();
  void DeclareTier();

  MetricFactory make_;
  std::vector<Copied<prometheus::Counter>> totals_;
  std::vector<Copied<prometheus::Gauge>> levels_;
  prometheus::Gauge* arena_bytes_;
  prometheus::Counter *write_errors_, *ring_exchanges_;
  prometheus::Histogram *fetch_seconds_, *disk_read_seconds_, *write_seconds_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_STORE_STORE_METRICS_H_
