// kv_store's page of metrics.
#ifndef HGA_KV_STORE_STORE_STORE_METRICS_H_
#define HGA_KV_STORE_STORE_STORE_METRICS_H_

#include <memory>
#include <vector>

#include "kv_store/store/block_store.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace hga {

class StoreMetrics {
 public:
  explicit StoreMetrics(std::shared_ptr<prometheus::Registry> registry);

  // Brings the page up to `stats`. By one thread.
  void Update(const StoreStats& stats, uint64_t disk_bytes);
  // Thread-safe.
  void ObserveDiskRead(double seconds) { disk_read_seconds_->Observe(seconds); }
  void CountWriteError() { write_errors_->Increment(); }

 private:
  struct Total {
    prometheus::Counter* counter;
    uint64_t StoreStats::*field;
  };
  struct Level {
    prometheus::Gauge* gauge;
    uint64_t StoreStats::*field;
  };
  void AddTotal(const char* name, const char* help, uint64_t StoreStats::*field);
  void AddLevel(const char* name, const char* help, uint64_t StoreStats::*field);

  const std::shared_ptr<prometheus::Registry> registry_;
  std::vector<Total> totals_;
  std::vector<Level> levels_;
  std::vector<prometheus::Gauge*> slots_by_state_;
  prometheus::Gauge* disk_bytes_ = nullptr;
  prometheus::Counter* write_errors_ = nullptr;
  prometheus::Histogram* disk_read_seconds_ = nullptr;
};

}  // namespace hga

#endif  // HGA_KV_STORE_STORE_STORE_METRICS_H_
