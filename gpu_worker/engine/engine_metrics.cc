#include "gpu_worker/engine/engine_metrics.h"

#include <utility>

namespace hga {
namespace {

constexpr const char* kReasons[] = {"stop", "length", "prefill_only"};
constexpr const char* kTiers[] = {"device", "keys", "held", "ram", "disk", "miss"};
constexpr const char* kPhases[] = {"prefill", "decode"};
constexpr int kLastStatusCode = static_cast<int>(absl::StatusCode::kUnauthenticated);

uint64_t ValueOf(const prometheus::Counter* counter) { return static_cast<uint64_t>(counter->Value()); }

}  // namespace

EngineMetrics::EngineMetrics(std::shared_ptr<prometheus::Registry> registry, const std::string& model_name,
                             uint64_t block_bytes)
    : on_(registry != nullptr), registry_(on_ ? std::move(registry) : std::make_shared<prometheus::Registry>()),
      block_bytes_(static_cast<double>(block_bytes)) {
  MetricFactory make(registry_, {{"model_name", model_name}});
  DeclareRequests(&make);
  DeclareSteps(&make);
}

void EngineMetrics::DeclareRequests(MetricFactory* make) {
  running_ = make->AddGauge("hga_num_requests_running", "Requests being computed");
  waiting_ = make->AddGauge("hga_num_requests_waiting", "Requests that wait for their turn");
  for (size_t i = 0; i < success_.size(); ++i) {
    success_[i] = make->AddCounter("hga_request_success_total", "Requests answered, by why the answer ended",
                                   {{"finished_reason", kReasons[i]}});
  }
  for (int i = 1; i <= kLastStatusCode; ++i) {
    const auto code = static_cast<absl::StatusCode>(i);
    failure_[code] = make->AddCounter("hga_request_errors_total", "Requests that failed, by cause (a gRPC status)",
                                      {{"code", absl::StatusCodeToString(code)}});
  }
  prompt_tokens_ = make->AddCounter("hga_prompt_tokens_total", "Tokens of prompts, those found in the store included");
  generation_tokens_ = make->AddCounter("hga_generation_tokens_total", "Tokens generated");
  cache_queries_ = make->AddCounter("hga_prefix_cache_queries_total", "Tokens of prompts that the store was asked for");
  cache_hits_ = make->AddCounter("hga_prefix_cache_hits_total", "Tokens of prompts whose K/V the store had");
  first_token_ = make->AddHistogram("hga_time_to_first_token_seconds", "Request accepted to its first token",
                                    RequestSeconds());
  token_ = make->AddHistogram("hga_time_per_output_token_seconds", "Between two tokens of an answer", ShortSeconds());
  latency_ = make->AddHistogram("hga_e2e_request_latency_seconds", "Request accepted to its end", RequestSeconds());
  queue_ = make->AddHistogram("hga_request_queue_time_seconds",
                              "Request accepted to its first step, looking up its prefix included", RequestSeconds());
  prefill_time_ = make->AddHistogram("hga_request_prefill_time_seconds", "First step to first token of a request",
                                     RequestSeconds());
  decode_time_ = make->AddHistogram("hga_request_decode_time_seconds", "First to last token of a request",
                                    RequestSeconds());
  request_prompt_tokens_ = make->AddHistogram("hga_request_prompt_tokens", "Tokens of a request's prompt",
                                              TokenCounts());
  request_generation_tokens_ = make->AddHistogram("hga_request_generation_tokens", "Tokens of a request's answer",
                                                  TokenCounts());
  attended_ratio_ = make->AddHistogram("hga_worker_attended_ratio",
                                       "Keys attended / keys of dense attention, in one answer",
                                       {0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1});
}

void EngineMetrics::DeclareSteps(MetricFactory* make) {
  prefill_tokens_ = make->AddCounter("hga_worker_prefill_tokens_total", "Tokens of prompts that were computed");
  for (int i = 0; i < 2; ++i) {
    const MetricLabels phase = {{"phase", kPhases[i]}};
    step_[i] = make->AddHistogram("hga_worker_step_seconds", "One step: a prefill batch, or a token of each answer",
                                  ShortSeconds(), phase);
    attended_keys_[i] = make->AddCounter("hga_worker_attended_keys_total",
                                         "Keys attended, summed over rows, layers and KV heads", phase);
    dense_keys_[i] = make->AddCounter("hga_worker_dense_keys_total", "Keys that dense attention would have attended",
                                      phase);
  }
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const MetricLabels tier = {{"tier", kTiers[i]}};
    blocks_[i] = make->AddCounter("hga_worker_kv_blocks_total",
                                  "K/V blocks that attention asked for, by the tier they were found in; keys: all that "
                                  "was selected of them, in the worker's key cache; held: in RAM and pinned by the "
                                  "sequence; miss: lost, to be computed again", tier);
    bytes_[i] = make->AddCounter("hga_worker_kv_bytes_total",
                                 "Bytes of those blocks, of one from disk those of the KV heads that were asked "
                                 "for, of keys in the key cache those of the keys", tier);
  }
  device_fetched_ = make->AddCounter("hga_worker_device_fetched_bytes_total",
                                     "Bytes of K/V brought to a GPU's memory, those that are not kept there included");
  keys_copied_ = make->AddCounter("hga_worker_key_cache_copied_bytes_total",
                                  "Bytes of K/V copied into the key cache (--key_cache)");
  for (int device = 0; device < 2; ++device) {
    selections_[device] = make->AddCounter("hga_worker_selections_total",
                                           "Selections for an answer's token in one layer while a GPU mirrors the "
                                           "router's summaries (--device_summaries), by who made them",
                                           {{"by", device != 0 ? "device" : "router"}});
  }
  for (int used = 0; used < 2; ++used) {
    const MetricLabels label = {{"used", used != 0 ? "yes" : "no"}};
    early_keys_[used] = make->AddCounter("hga_worker_early_keys_total",
                                         "Keys that a layer was guessed to select (--early_selection), by whether it "
                                         "did", label);
    early_blocks_[used] = make->AddCounter("hga_worker_early_blocks_total",
                                           "Blocks fetched for keys that were guessed, by whether they were needed; "
                                           "those then count as held", label);
  }
  route_wait_ = make->AddHistogram("hga_worker_route_wait_seconds",
                                   "Wait for the router's selection after the window was attended, per layer",
                                   ShortSeconds());
  fetch_ = make->AddHistogram("hga_worker_fetch_seconds", "Wait for blocks that were not held, per layer",
                              ShortSeconds());
  router_attached_ = make->AddGauge("hga_worker_router_attached", "1 while a router is attached");
  kv_store_attached_ = make->AddGauge("hga_worker_kv_store_attached", "1 while a kv_store is attached");
  fallback_steps_ = make->AddCounter("hga_worker_dense_fallback_steps_total",
                                     "Steps of routed sequences that attended densely for lack of a router");
  given_back_ = make->AddCounter("hga_worker_given_back_blocks_total",
                                 "Holds given back because the arena was short of room");
  cut_backs_ = make->AddCounter("hga_worker_cut_backs_total",
                                "Times that a sequence went back to a chunk which the store had lost");
}

void EngineMetrics::SetRequests(size_t running, size_t waiting) {
  if (!on_) return;
  running_->Set(static_cast<double>(running));
  waiting_->Set(static_cast<double>(waiting));
}

void EngineMetrics::ObserveStart(double queue_seconds, uint32_t prompt_tokens, uint32_t reused_tokens) {
  if (!on_) return;
  queue_->Observe(queue_seconds);
  request_prompt_tokens_->Observe(prompt_tokens);
  for (prometheus::Counter* counter : {prompt_tokens_, cache_queries_}) counter->Increment(prompt_tokens);
  cache_hits_->Increment(reused_tokens);
}

void EngineMetrics::ObserveFirstToken(double seconds) {
  if (!on_) return;
  first_token_->Observe(seconds);
  generation_tokens_->Increment();
}

void EngineMetrics::ObserveToken(double seconds) {
  if (!on_) return;
  token_->Observe(seconds);
  generation_tokens_->Increment();
}

void EngineMetrics::ObserveEnd(FinishReason reason, double seconds, const RequestStats& stats) {
  ++request_count_;
  if (!on_) return;
  success_[static_cast<size_t>(reason)]->Increment();
  latency_->Observe(seconds);
  prefill_time_->Observe(stats.prefill_s);
  if (stats.completion_tokens == 0) return;
  decode_time_->Observe(stats.decode_s);
  request_generation_tokens_->Observe(stats.completion_tokens);
  if (stats.dense_keys[1] > 0) attended_ratio_->Observe(stats.attended_fraction(true));
}

void EngineMetrics::CountFailure(absl::StatusCode code) {
  ++request_count_;
  const auto found = failure_.find(code);
  if (on_) (found == failure_.end() ? failure_[absl::StatusCode::kUnknown] : found->second)->Increment();
}

void EngineMetrics::ObserveStep(bool decode, double seconds) {
  if (on_) step_[decode]->Observe(seconds);
}

void EngineMetrics::CountPrefill(uint32_t tokens) {
  if (on_) prefill_tokens_->Increment(tokens);
}

void EngineMetrics::Count(Tier tier, double blocks, double bytes) {
  blocks_[static_cast<size_t>(tier)]->Increment(blocks);
  bytes_[static_cast<size_t>(tier)]->Increment(bytes);
}

void EngineMetrics::CountBlocks(Tier tier, uint64_t blocks, uint64_t spared_bytes) {
  if (!on_ || blocks == 0) return;
  const double bytes = static_cast<double>(blocks) * block_bytes_ - static_cast<double>(spared_bytes);
  Count(tier, static_cast<double>(blocks), bytes);
}

void EngineMetrics::CountDevice(uint64_t hit_bytes, uint64_t fetched_bytes) {
  if (!on_ || hit_bytes + fetched_bytes == 0) return;
  Count(Tier::kDevice, static_cast<double>(hit_bytes) / block_bytes_, static_cast<double>(hit_bytes));
  device_fetched_->Increment(static_cast<double>(fetched_bytes));
}

void EngineMetrics::CountKeyCache(uint64_t blocks, uint64_t hit_bytes, uint64_t copied_bytes) {
  if (!on_ || blocks + hit_bytes + copied_bytes == 0) return;
  Count(Tier::kKeys, static_cast<double>(blocks), static_cast<double>(hit_bytes));
  keys_copied_->Increment(static_cast<double>(copied_bytes));
}

void EngineMetrics::CountSelections(uint64_t on_device, uint64_t by_router) {
  if (!on_) return;
  selections_[1]->Increment(static_cast<double>(on_device));
  selections_[0]->Increment(static_cast<double>(by_router));
}

void EngineMetrics::CountKeys(bool decode, uint64_t attended, uint64_t dense) {
  if (!on_ || dense == 0) return;
  attended_keys_[decode]->Increment(static_cast<double>(attended));
  dense_keys_[decode]->Increment(static_cast<double>(dense));
}

void EngineMetrics::CountEarly(uint64_t keys, uint64_t used_keys, uint64_t blocks, uint64_t used_blocks) {
  if (!on_ || keys == 0) return;
  early_keys_[0]->Increment(static_cast<double>(keys - used_keys));
  early_keys_[1]->Increment(static_cast<double>(used_keys));
  early_blocks_[0]->Increment(static_cast<double>(blocks - used_blocks));
  early_blocks_[1]->Increment(static_cast<double>(used_blocks));
}

void EngineMetrics::ObserveRouteWait(double seconds) {
  if (on_) route_wait_->Observe(seconds);
}
void EngineMetrics::ObserveFetch(double seconds) {
  if (on_) fetch_->Observe(seconds);
}

void EngineMetrics::SetAttached(bool router, bool kv_store) {
  if (!on_) return;
  router_attached_->Set(router ? 1 : 0);
  kv_store_attached_->Set(kv_store ? 1 : 0);
}

void EngineMetrics::CountFallbackStep() {
  if (on_) fallback_steps_->Increment();
}
void EngineMetrics::CountGivenBack(uint64_t blocks) {
  if (on_) given_back_->Increment(static_cast<double>(blocks));
}
void EngineMetrics::CountCutBack() {
  if (on_) cut_backs_->Increment();
}

EngineTotals EngineMetrics::totals() const {
  EngineTotals t;
  const auto blocks = [&](Tier tier) { return ValueOf(blocks_[static_cast<size_t>(tier)]); };
  t.requests = request_count_;
  t.active = static_cast<uint64_t>(running_->Value());
  t.prefill_tokens = ValueOf(prefill_tokens_);
  t.decode_tokens = ValueOf(generation_tokens_);
  t.dense_fallback_steps = ValueOf(fallback_steps_);
  t.tiers.held = blocks(Tier::kHeld);
  t.tiers.keys = blocks(Tier::kKeys);
  t.tiers.ram = blocks(Tier::kRam);
  t.tiers.disk = blocks(Tier::kDisk);
  t.tiers.recomputed = blocks(Tier::kMiss);
  return t;
}

}  // namespace hga
