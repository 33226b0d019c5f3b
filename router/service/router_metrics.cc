#include "router/service/router_metrics.h"

#include <map>
#include <string>

namespace hga {
namespace {

prometheus::Gauge* AddGauge(prometheus::Registry* registry, const std::string& name, const std::string& help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(*registry).Add({});
}

ExchangeMetrics AddExchange(prometheus::Registry* registry, const std::string& transport) {
  const std::map<std::string, std::string> labels = {{"transport", transport}};
  const prometheus::Histogram::BucketBoundaries bounds = {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3,
                                                          2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1,  1};
  return {&prometheus::BuildCounter()
               .Name("hga_router_exchanges_total")
               .Help("Route requests answered, good or bad")
               .Register(*registry)
               .Add(labels),
          &prometheus::BuildCounter()
               .Name("hga_router_exchange_errors_total")
               .Help("Route requests answered with an error")
               .Register(*registry)
               .Add(labels),
          &prometheus::BuildHistogram()
               .Name("hga_router_exchange_seconds")
               .Help("Time from a route request's arrival to its answer")
               .Register(*registry)
               .Add(labels, bounds)};
}

}  // namespace

RouterMetrics::RouterMetrics(const std::shared_ptr<prometheus::Registry>& registry)
    : registry_(registry),
      ring_(AddExchange(registry.get(), "ring")),
      stream_(AddExchange(registry.get(), "stream")),
      selections_(&prometheus::BuildCounter()
                       .Name("hga_router_selections_total")
                       .Help("Selections made: one per block of queries and layer")
                       .Register(*registry)
                       .Add({})),
      index_bytes_(AddGauge(registry.get(), "hga_router_index_bytes", "Memory of summaries, remembered ones included")),
      index_chunks_(AddGauge(registry.get(), "hga_router_index_chunks", "Chunks indexed in open sequences")),
      sequences_(AddGauge(registry.get(), "hga_router_sequences", "Open sequences")),
      workers_(AddGauge(registry.get(), "hga_router_workers", "Attached workers")),
      rebuilt_chunks_(&prometheus::BuildCounter()
                           .Name("hga_router_rebuilt_chunks_total")
                           .Help("Chunk summaries taken from kv_store")
                           .Register(*registry)
                           .Add({})) {}

void RouterMetrics::CountExchange(const ExchangeMetrics& transport, const absl::Status& status,
                                  std::chrono::steady_clock::duration took, size_t selections) {
  transport.exchanges->Increment();
  transport.seconds->Observe(std::chrono::duration<double>(took).count());
  if (status.ok()) {
    selections_->Increment(static_cast<double>(selections));
  } else {
    transport.errors->Increment();
  }
}

void RouterMetrics::SetIndex(const SummaryIndex::Totals& totals) {
  index_bytes_->Set(static_cast<double>(totals.bytes));
  index_chunks_->Set(static_cast<double>(totals.chunks));
  sequences_->Set(static_cast<double>(totals.sequences));
  std::lock_guard<std::mutex> lock(mu_);
  const double more = static_cast<double>(totals.rebuilt_chunks) - rebuilt_chunks_->Value();
  if (more > 0) rebuilt_chunks_->Increment(more);
}

}  // namespace hga
