#include "router/service/router_metrics.h"

#include <algorithm>

namespace hga {
namespace {

constexpr const char* kStageNames[] = {"message", "prepare", "coarse", "fine", "pick"};
// What an exchange can fail with; another one is counted as INTERNAL.
constexpr absl::StatusCode kExchangeErrors[] = {
    absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound, absl::StatusCode::kFailedPrecondition,
    absl::StatusCode::kResourceExhausted, absl::StatusCode::kInternal};

double Seconds(std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); }

ExchangeMetrics AddExchange(MetricFactory* make, const char* transport) {
  const MetricLabels labels = {{"transport", transport}};
  ExchangeMetrics metrics;
  metrics.exchanges = make->AddCounter("hga_router_exchanges_total", "Route requests answered, good or bad", labels);
  metrics.seconds = make->AddHistogram("hga_router_exchange_seconds",
                                       "Time from a route request's arrival to its answer", ShortSeconds(), labels);
  for (const absl::StatusCode code : kExchangeErrors) {
    metrics.errors[code] =
        make->AddCounter("hga_router_exchange_errors_total", "Route requests answered with an error, by cause",
                         {{"transport", transport}, {"code", absl::StatusCodeToString(code)}});
  }
  return metrics;
}

}  // namespace

RouterMetrics::RouterMetrics(const std::shared_ptr<prometheus::Registry>& registry)
    : make_(registry), ring_(AddExchange(&make_, "ring")), stream_(AddExchange(&make_, "stream")) {
  selections_ =
      make_.AddCounter("hga_router_selections_total", "Selections made: one per block of queries and layer");
  for (size_t i = 0; i < stages_.size(); ++i) {
    stages_[i] = make_.AddCounter("hga_router_stage_seconds_total",
                                  "Time spent on exchanges, by stage; message: decoding and encoding",
                                  {{"stage", kStageNames[i]}});
  }
  index_bytes_ = make_.AddGauge("hga_router_index_bytes", "Memory of summaries, remembered ones included");
  index_chunks_ = make_.AddGauge("hga_router_index_chunks", "Chunks indexed in open sequences");
  cache_limit_bytes_ =
      make_.AddGauge("hga_router_cache_limit_bytes", "What summaries of closed sequences may take (--cache_bytes)");
  sequences_ = make_.AddGauge("hga_router_sequences", "Open sequences");
  workers_ = make_.AddGauge("hga_router_workers", "Attached workers");
  open_seconds_ = make_.AddHistogram("hga_router_open_seconds",
                                     "Time to open a sequence, rebuilding its index included", ShortSeconds());
  const char* const indexed = "hga_router_indexed_chunks_total";
  const char* const indexed_help = "Chunk summaries indexed, by where they came from; kv_store: a rebuild";
  chunks_appended_ = make_.AddCounter(indexed, indexed_help, {{"source", "worker"}});
  chunks_remembered_ = make_.AddCounter(indexed, indexed_help, {{"source", "memory"}});
  chunks_rebuilt_ = make_.AddCounter(indexed, indexed_help, {{"source", "kv_store"}});
}

void RouterMetrics::CountExchange(const ExchangeMetrics& transport, const absl::Status& status,
                                  std::chrono::steady_clock::duration took, size_t selections,
                                  const SelectTimes& times) {
  transport.exchanges->Increment();
  transport.seconds->Observe(Seconds(took));
  const auto selecting = times.prepare + times.coarse + times.fine + times.pick;
  stages_[kMessage]->Increment(Seconds(std::max(std::chrono::nanoseconds(0), took - selecting)));
  stages_[kPrepare]->Increment(Seconds(times.prepare));
  stages_[kCoarse]->Increment(Seconds(times.coarse));
  stages_[kFine]->Increment(Seconds(times.fine));
  stages_[kPick]->Increment(Seconds(times.pick));
  if (status.ok()) {
    selections_->Increment(static_cast<double>(selections));
    return;
  }
  const auto found = transport.errors.find(status.code());
  (found != transport.errors.end() ? found->second : transport.errors.at(absl::StatusCode::kInternal))->Increment();
}

void RouterMetrics::CountOpened(const OpenedSequence& opened, std::chrono::steady_clock::duration took) {
  open_seconds_->Observe(Seconds(took));
  chunks_remembered_->Increment(opened.from_memory_chunks);
}

void RouterMetrics::SetIndex(const SummaryIndex::Totals& totals) {
  index_bytes_->Set(static_cast<double>(totals.bytes));
  index_chunks_->Set(static_cast<double>(totals.chunks));
  sequences_->Set(static_cast<double>(totals.sequences));
  std::lock_guard<std::mutex> lock(mu_);
  const double more = static_cast<double>(totals.rebuilt_chunks) - chunks_rebuilt_->Value();
  if (more > 0) chunks_rebuilt_->Increment(more);
}

}  // namespace hga
