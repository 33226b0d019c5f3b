// The standard process_* metrics of Prometheus' client libraries, read from /proc when the page is.
#ifndef HGA_COMMON_METRICS_PROCESS_METRICS_H_
#define HGA_COMMON_METRICS_PROCESS_METRICS_H_

#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace hga {

// Thread-safe. What /proc does not say is left out.
class ProcessMetrics : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
};

}  // namespace hga

#endif  // HGA_COMMON_METRICS_PROCESS_METRICS_H_
