// Where a daemon declares its metrics: each once, with its name, its HELP text and all label values it can have.
//
// Names are `hga_...`, end in the base unit (`_seconds`, `_bytes`, `_ratio`) and, for counters, in `_total`. A metric
// with labels is declared once for each value, so that its series are bounded and start at 0. docs/metrics.md is made
// from what is declared here (tests/metrics).
#ifndef HGA_COMMON_METRICS_METRIC_FACTORY_H_
#define HGA_COMMON_METRICS_METRIC_FACTORY_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace hga {

using MetricLabels = std::map<std::string, std::string>;
using MetricBuckets = prometheus::Histogram::BucketBoundaries;

// Upper bounds for what takes seconds to minutes (requests), for what takes micro- to milliseconds (steps, reads), and
// for counts of tokens.
MetricBuckets RequestSeconds();
MetricBuckets ShortSeconds();
MetricBuckets TokenCounts();

// Metrics live as long as the registry.
class MetricFactory {
 public:
  // constant: labels of every metric made here, e.g. model_name.
  explicit MetricFactory(std::shared_ptr<prometheus::Registry> registry, MetricLabels constant = {})
      : registry_(std::move(registry)), constant_(std::move(constant)) {}

  prometheus::Counter* AddCounter(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  prometheus::Gauge* AddGauge(const std::string& name, const std::string& help, const MetricLabels& labels = {});
  prometheus::Histogram* AddHistogram(const std::string& name, const std::string& help, const MetricBuckets& buckets,
                                      const MetricLabels& labels = {});

 private:
  const std::shared_ptr<prometheus::Registry> registry_;
  const MetricLabels constant_;
};

// The page as Prometheus reads it, with what is declared and nothing counted yet.
std::string MetricsText(const std::vector<std::shared_ptr<prometheus::Collectable>>& sources);

}  // namespace hga

#endif  // HGA_COMMON_METRICS_METRIC_FACTORY_H_
