#include "tests/bench/metrics_overhead.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <vector>

#include "common/base/status.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/engine/engine.h"
#include "gpu_worker/model/loaded_model.h"
#include "kv_store/client/memory_kv_client.h"
#include "router/client/local_route_client.h"
#include "router/service/router_metrics.h"

namespace hga {
namespace {

constexpr uint32_t kPromptTokens = 1024;
constexpr uint32_t kAnswerTokens = 33;

// An engine with a store and a router of its own; the backend is shared, and used by one at a time.
struct Side {
  std::unique_ptr<MemoryKvClient> store;
  std::unique_ptr<RouterLink> link;
  std::unique_ptr<Engine> engine;
  std::vector<double> step_seconds;
};

EngineModel Describe(const LoadedModel& model) {
  EngineModel out;
  out.name = model.weights.config.name;
  out.geometry = model.weights.config.Geometry();
  out.fingerprint = model.fingerprint;
  out.method = *FindSummaryMethod("sketch");
  out.vocab_size = model.weights.config.vocab_size;
  out.context_tokens = model.weights.config.context_tokens;
  out.token_bytes = [](uint32_t) { return std::string(); };
  return out;
}

absl::StatusOr<Side> Start(const EngineModel& model, Backend* backend, bool counts) {
  Side side;
  side.store = std::make_unique<MemoryKvClient>(model.geometry);
  side.link = std::make_unique<RouterLink>([g = model.geometry]() -> absl::StatusOr<std::unique_ptr<RouteClient>> {
    return std::make_unique<LocalRouteClient>(g, *FindSummaryMethod("sketch"));
  });
  auto registry = counts ? std::make_shared<prometheus::Registry>() : nullptr;
  HGA_ASSIGN_OR_RETURN(side.engine, Engine::Start(model, EngineOptions(), backend, side.store.get(), side.link.get(),
                                                  std::move(registry)));
  return side;
}

absl::Status AnswerOnce(const std::vector<uint32_t>& prompt, Side* side) {
  EngineRequest request;
  request.tokens = prompt;
  request.session = "bench";
  request.max_tokens = kAnswerTokens;
  request.ignore_eos = true;
  request.budget.dense_decode_tokens = 0;  // the router's updates are part of it
  HGA_ASSIGN_OR_RETURN(const auto events, side->engine->Submit(request));
  for (;;) {
    const auto event = events->Next(absl::Seconds(300));
    if (!event.has_value()) return absl::DeadlineExceededError("the engine does not answer");
    if (event->kind == EngineEvent::Kind::kFailed) return event->status;
    if (event->kind != EngineEvent::Kind::kFinished) continue;
    side->step_seconds.push_back(event->stats.decode_s / static_cast<double>(event->stats.decode_steps));
    return absl::OkStatus();
  }
}

// Seconds that the updates of one decode step take, here and in the router.
double SecondsOfUpdates(uint32_t layers) {
  EngineMetrics worker(std::make_shared<prometheus::Registry>(), "model", 1);
  RouterMetrics router(std::make_shared<prometheus::Registry>());
  constexpr int kSteps = 2000;
  const auto start = std::chrono::steady_clock::now();
  for (int step = 0; step < kSteps; ++step) {
    worker.SetRequests(1, 0);
    worker.SetAttached(true, true);
    for (uint32_t layer = 0; layer < layers; ++layer) {
      router.CountExchange(router.ring(), absl::OkStatus(), std::chrono::microseconds(50), 1, SelectTimes());
      worker.ObserveRouteWait(1e-5);
      worker.ObserveFetch(1e-4);
    }
    for (const auto tier : {EngineMetrics::Tier::kHeld, EngineMetrics::Tier::kRam, EngineMetrics::Tier::kDisk}) {
      worker.CountBlocks(tier, 100);
    }
    worker.CountKeys(true, 1000, 10000);
    worker.ObserveStep(true, 0.01);
    worker.ObserveToken(0.01);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / kSteps;
}

}  // namespace

absl::Status MeasureMetricsOverhead(const std::string& model_path, bool quick, Report* report) {
  HGA_ASSIGN_OR_RETURN(const auto model, LoadModel(model_path));
  const EngineModel described = Describe(*model);
  HGA_ASSIGN_OR_RETURN(const auto backend, CreateBackend("cpu", model->weights, described.geometry, BackendOptions()));
  HGA_ASSIGN_OR_RETURN(Side on, Start(described, backend.get(), true));
  HGA_ASSIGN_OR_RETURN(Side off, Start(described, backend.get(), false));
  std::mt19937 random(1);
  std::vector<uint32_t> prompt;
  for (uint32_t i = 0; i < kPromptTokens; ++i) prompt.push_back(100 + random() % 20000);
  for (Side* side : {&on, &off}) {
    HGA_RETURN_IF_ERROR(AnswerOnce(prompt, side));  // reads the prompt
    side->step_seconds.clear();
  }
  std::vector<double> ratios;
  for (int pair = 0; pair < (quick ? 10 : 60); ++pair) {
    // Whoever goes second finds warmer caches: both do in turn.
    for (Side* side : pair % 2 == 0 ? std::vector<Side*>{&on, &off} : std::vector<Side*>{&off, &on}) {
      HGA_RETURN_IF_ERROR(AnswerOnce(prompt, side));
    }
    ratios.push_back(on.step_seconds.back() / off.step_seconds.back());
  }
  const double step = Quantile(&off.step_seconds, 0.5);
  const double updates = SecondsOfUpdates(described.geometry.layers);
  report->Add("decode_step_ms_metrics_off", "decode step, nothing counted", 1e3 * step, "ms");
  report->Add("decode_step_ms_metrics_on", "decode step, all counted", 1e3 * Quantile(&on.step_seconds, 0.5), "ms");
  report->Add("metrics_overhead_pct", "overhead of metrics, median of pairs", 100 * (Quantile(&ratios, 0.5) - 1), "%");
  report->Add("metrics_overhead_pct_p25", "  lower quartile of pairs", 100 * (Quantile(&ratios, 0.25) - 1), "%");
  report->Add("metrics_overhead_pct_p75", "  upper quartile of pairs", 100 * (Quantile(&ratios, 0.75) - 1), "%");
  report->Add("metrics_updates_us_per_token", "updates of a step by themselves, router's too", 1e6 * updates, "us");
  report->Add("metrics_updates_pct", "  of a decode step", 100 * updates / step, "%");
  return absl::OkStatus();
}

}  // namespace hga
