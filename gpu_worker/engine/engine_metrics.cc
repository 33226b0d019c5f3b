#include "gpu_worker/engine/engine_metrics.h"

#include <utility>

namespace hga {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

prometheus::Counter* AddCounter(prometheus::Registry* registry, const char* name, const char* help) {
  return &prometheus::BuildCounter().Name(name).Help(help).Register(*registry).Add({});
}
prometheus::Gauge* AddGauge(prometheus::Registry* registry, const char* name, const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(*registry).Add({});
}
prometheus::Histogram* AddHistogram(prometheus::Registry* registry, const char* name, const char* help,
                                    const Buckets& buckets) {
  return &prometheus::BuildHistogram().Name(name).Help(help).Register(*registry).Add({}, buckets);
}

}  // namespace

EngineMetrics::EngineMetrics(std::shared_ptr<prometheus::Registry> registry) : registry_(std::move(registry)) {
  prometheus::Registry* r = registry_.get();
  requests_ = &prometheus::BuildCounter()
                   .Name("hga_worker_requests_total")
                   .Help("Requests ended, by outcome (a gRPC status)")
                   .Register(*r);
  prefill_tokens_ = AddCounter(r, "hga_worker_prefill_tokens_total", "Prompt tokens computed");
  decode_tokens_ = AddCounter(r, "hga_worker_decode_tokens_total", "Tokens generated");
  fallback_steps_ = AddCounter(r, "hga_worker_dense_fallback_steps_total",
                               "Steps of routed sequences that attended densely for lack of a router");
  auto& blocks = prometheus::BuildCounter()
                     .Name("hga_worker_blocks_total")
                     .Help("K/V blocks that attention asked for, by the tier they were found in")
                     .Register(*r);
  const char* const tiers[] = {"device", "held", "ram", "disk", "recomputed"};
  for (size_t i = 0; i < blocks_.size(); ++i) blocks_[i] = &blocks.Add({{"tier", tiers[i]}});
  active_ = AddGauge(r, "hga_worker_active_sequences", "Sequences being computed");
  router_attached_ = AddGauge(r, "hga_worker_router_attached", "1 while a router is attached");
  const Buckets long_times = {0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000};
  const Buckets short_times = {1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3};
  first_token_ = AddHistogram(r, "hga_worker_time_to_first_token_seconds", "Request accepted to first token",
                              long_times);
  token_ = AddHistogram(r, "hga_worker_time_per_output_token_seconds", "Between two tokens of a sequence",
                        short_times);
  route_wait_ = AddHistogram(r, "hga_worker_route_wait_seconds",
                             "Wait for the router's selection after the window was attended, per layer", short_times);
  fetch_ = AddHistogram(r, "hga_worker_fetch_seconds", "Wait for blocks that were not held, per layer", short_times);
  attended_ = AddHistogram(r, "hga_worker_attended_fraction", "Keys attended / keys of dense attention, per request",
                           {0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1});
}

void EngineMetrics::CountRequest(const std::string& outcome) {
  ++request_count_;
  requests_->Add({{"outcome", outcome}}).Increment();
}
void EngineMetrics::SetActive(uint32_t sequences) { active_->Set(sequences); }
void EngineMetrics::SetRouterAttached(bool attached) { router_attached_->Set(attached ? 1 : 0); }
void EngineMetrics::CountTokens(uint64_t prefill, uint64_t decode) {
  if (prefill > 0) prefill_tokens_->Increment(static_cast<double>(prefill));
  if (decode > 0) decode_tokens_->Increment(static_cast<double>(decode));
}
void EngineMetrics::CountBlocks(Tier tier, uint64_t blocks) {
  if (blocks > 0) blocks_[static_cast<size_t>(tier)]->Increment(static_cast<double>(blocks));
}
void EngineMetrics::CountFallbackStep() { fallback_steps_->Increment(); }
void EngineMetrics::ObserveFirstToken(double seconds) { first_token_->Observe(seconds); }
void EngineMetrics::ObserveToken(double seconds) { token_->Observe(seconds); }
void EngineMetrics::ObserveRouteWait(double seconds) { route_wait_->Observe(seconds); }
void EngineMetrics::ObserveFetch(double seconds) { fetch_->Observe(seconds); }
void EngineMetrics::ObserveAttendedFraction(double fraction) { attended_->Observe(fraction); }

EngineTotals EngineMetrics::totals() const {
  EngineTotals t;
  const auto blocks = [&](Tier tier) { return static_cast<uint64_t>(blocks_[static_cast<size_t>(tier)]->Value()); };
  t.requests = request_count_;
  t.active = static_cast<uint64_t>(active_->Value());
  t.prefill_tokens = static_cast<uint64_t>(prefill_tokens_->Value());
  t.decode_tokens = static_cast<uint64_t>(decode_tokens_->Value());
  t.dense_fallback_steps = static_cast<uint64_t>(fallback_steps_->Value());
  t.tiers.held = blocks(Tier::kHeld);
  t.tiers.ram = blocks(Tier::kRam);
  t.tiers.disk = blocks(Tier::kDisk);
  t.tiers.recomputed = blocks(Tier::kRecomputed);
  return t;
}

}  // namespace hga
