#include "common/metrics/metric_factory.h"

#include <iterator>

#include "prometheus/text_serializer.h"

namespace hga {

MetricBuckets RequestSeconds() {
  return {0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200};
}
MetricBuckets ShortSeconds() {
  return {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5, 10};
}
MetricBuckets TokenCounts() { return {16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576}; }

prometheus::Counter* MetricFactory::AddCounter(const std::string& name, const std::string& help,
                                               const MetricLabels& labels) {
  return &prometheus::BuildCounter().Name(name).Help(help).Labels(constant_).Register(*registry_).Add(labels);
}

prometheus::Gauge* MetricFactory::AddGauge(const std::string& name, const std::string& help,
                                           const MetricLabels& labels) {
  return &prometheus::BuildGauge().Name(name).Help(help).Labels(constant_).Register(*registry_).Add(labels);
}

prometheus::Histogram* MetricFactory::AddHistogram(const std::string& name, const std::string& help,
                                                   const MetricBuckets& buckets, const MetricLabels& labels) {
  return &prometheus::BuildHistogram()
              .Name(name)
              .Help(help)
              .Labels(constant_)
              .Register(*registry_)
              .Add(labels, buckets);
}

std::string MetricsText(const std::vector<std::shared_ptr<prometheus::Collectable>>& sources) {
  std::vector<prometheus::MetricFamily> families;
  for (const auto& source : sources) {
    auto more = source->Collect();
    families.insert(families.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace hga
