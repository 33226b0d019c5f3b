#include <algorithm>
#include <chrono>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/cores.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/daemon.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/rounded_kv.h"
#include "gpu_worker/device_defaults.h"
#include "gpu_worker/engine/channel_energies.h"
#include "gpu_worker/engine/engine.h"
#include "gpu_worker/engine/step_trace.h"
#include "gpu_worker/inspect.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/options.h"
#include "gpu_worker/service/worker_service.h"
#include "gpu_worker/sizes.h"
#include "kv_store/client/grpc_kv_client.h"
#include "router/client/attach_router.h"

namespace hga {
namespace {

// A store makes its arena at the first attach: a second or two for each GB on a busy machine, and some have hundreds.
constexpr int kStoreTimeoutMs = 600'000;
constexpr std::chrono::seconds kProgressInterval(2);

absl::StatusOr<std::unique_ptr<LoadedModel>> Load(const GpuWorkerOptions& o) {
  auto last = std::chrono::steady_clock::now();
  auto model = LoadModel(o.model, o.chat_template, [&](double done) {
    const auto now = std::chrono::steady_clock::now();
    if (now - last < kProgressInterval) return;
    last = now;
    LogInfo("loading", {{"model", o.model}, {"percent", static_cast<int>(100 * done)}});
  });
  if (model.ok()) {
    LogInfo("loaded", {{"model", o.model}, {"seconds", (*model)->load_seconds},
                       {"parameters", (*model)->parameters}, {"peak_bytes", (*model)->load_peak_bytes}});
  }
  if (!absl::IsNotFound(model.status())) return model;
  return absl::NotFoundError(absl::StrCat(std::string(model.status().message()),
                                          "; deploy/fetch_model.sh brings a model, --model names it"));
}

EngineModel Describe(const LoadedModel& model, const KvGeometry& geometry, const SummaryMethod* method) {
  EngineModel out;
  out.name = model.weights.config.name;
  out.geometry = geometry;
  out.fingerprint = model.fingerprint;
  out.method = method;
  out.vocab_size = model.weights.config.vocab_size;
  out.context_tokens = model.weights.config.context_tokens;
  const Tokenizer* tokenizer = model.tokenizer.get();
  out.end_tokens = tokenizer->ends();
  if (model.chat_template.ok()) out.end_tokens.push_back(model.chat_template->end_of_turn());
  out.token_bytes = [tokenizer](uint32_t id) {
    return tokenizer->IsControl(id) ? std::string() : tokenizer->TokenBytes(id);
  };
  return out;
}

// The backend and the store must outlive what the factory makes.
RouterLink::Factory RouterFactory(const GpuWorkerOptions& o, const KvGeometry& geometry, const SummaryMethod& method,
                                  Backend* backend, KvClient* store) {
  if (o.router.empty()) return nullptr;
  RouteAttachOptions attach;
  attach.address = o.router;
  attach.geometry = geometry;
  attach.method = method.name;
  if (method.plan != nullptr) attach.channel_energies = method.plan->energies();
  attach.transport = *ParseRouteTransport(o.router_transport);
  attach.spin_us = o.router_spin_us;
  const SummarySource source = [store](absl::Span<const ChunkHash> chunks, const auto& sink) {
    return store->GetSummaries(chunks, sink);
  };
  return [attach, backend, method = &method, source]() -> absl::StatusOr<std::unique_ptr<RouteClient>> {
    HGA_ASSIGN_OR_RETURN(auto router, AttachRouter(attach));
    return backend->MirrorRouter(std::move(router), method, source);
  };
}

// Lets a device read the arena in place.
std::function<void()> RegisterArena(Backend* backend, const void* memory, size_t bytes) {
  const auto begin = std::chrono::steady_clock::now();
  const absl::Status status = backend->RegisterKv(memory, bytes);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  if (!status.ok()) {
    LogWarning("the device cannot read the arena in place: K/V is copied on its way",
               {{"error", std::string(status.message())}});
    return nullptr;
  }
  LogInfo("arena registered", {{"bytes", bytes}, {"seconds", took.count()}});
  return [backend, memory] { backend->UnregisterKv(memory); };
}

// The backend must outlive the client.
absl::StatusOr<std::unique_ptr<GrpcKvClient>> AttachStore(const GpuWorkerOptions& o, const KvGeometry& geometry,
                                                          Backend* backend) {
  GrpcKvClientOptions options;
  options.address = o.kv_store;
  options.client_name = "gpu_worker";
  options.geometry = geometry;
  options.attach_timeout_ms = kStoreTimeoutMs;
  options.fetch_ring = o.kv_ring;
  if (o.kv_transport == "bytes") options.remote_bytes = o.kv_remote_bytes;
  if (backend->name() == "cuda") {
    options.on_map = [backend](const void* memory, size_t bytes) { return RegisterArena(backend, memory, bytes); };
  }
  auto store = GrpcKvClient::Attach(options);
  if (store.ok()) return store;
  if (o.kv_transport == "auto" && absl::IsFailedPrecondition(store.status())) {
    options.remote_bytes = o.kv_remote_bytes;
    if (auto remote = GrpcKvClient::Attach(options); remote.ok()) {
      LogWarning("kv_store's arena cannot be mapped from here, K/V travels as bytes",
                 {{"error", store.status().message()}});
      return remote;
    }
  }
  return absl::Status(store.status().code(), absl::StrCat("kv_store at ", o.kv_store, ": ",
                                                          std::string(store.status().message())));
}

absl::Status Serve(const GpuWorkerOptions& o) {
  auto registry = std::make_shared<prometheus::Registry>();
  if (o.watch.print_metrics) {
    const EngineMetrics declared(registry, "", 0);
    std::cout << MetricsPage(registry);
    return absl::OkStatus();
  }
  HGA_ASSIGN_OR_RETURN(auto model, Load(o));
  HGA_ASSIGN_OR_RETURN(const KvDtype kv_dtype, ParseKvDtype(o.kv_dtype));
  KvGeometry geometry = model->weights.config.Geometry();
  if (kv_dtype == KvDtype::kInt8) geometry.dtype = kv_dtype;
  HGA_RETURN_IF_ERROR(o.engine.Validate(geometry));
  BackendOptions backend_options;
  backend_options.threads = o.threads;
  backend_options.bf16_copy = o.bf16_copy;
  const EngineOptions planned = o.backend == "cuda" ? EngineOnDevice(o, geometry, 0) : o.engine;
  backend_options.max_rows = std::max(planned.prefill_batch_tokens, o.engine.max_sequences);
  backend_options.device_memory_limit = o.device_memory_limit;
  backend_options.device_summary_bytes = SummariesOnDevice(o);
  backend_options.summary_method = o.engine.summary_method;
  backend_options.device_in_place = o.device_in_place;
  backend_options.device_graphs = o.device_graphs;
  backend_options.device_f8_gemm = o.device_f8_gemm;
  if (o.device_tier > 0) backend_options.device_tier_bytes = o.device_tier;
  HGA_ASSIGN_OR_RETURN(auto backend, CreateBackend(o.backend, model->weights, geometry, backend_options));
  backend = RoundKv(std::move(backend), geometry, kv_dtype);
  model->fingerprint = FingerprintWith(model->fingerprint, kv_dtype);
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* method,
                       PrepareSummaryMethod(o.engine.summary_method, *model, geometry, backend.get()));
  HGA_ASSIGN_OR_RETURN(auto store, AttachStore(o, geometry, backend.get()));
  RouterLink link(RouterFactory(o, geometry, *method, backend.get(), store.get()));
  if (!link.configured()) LogWarning("no --router: all attention is dense");

  std::unique_ptr<StepTrace> trace;
  if (!o.trace.empty()) {
    HGA_ASSIGN_OR_RETURN(trace, StepTrace::Open(o.trace, o.trace_bytes));
  }
  EngineOptions engine_options = o.engine;
  if (backend->name() == "cuda") {
    const auto stats = store->GetStats();
    HGA_RETURN_IF_ERROR(stats.status());
    engine_options = EngineOnDevice(o, geometry, stats->slots_total);
    engine_options.key_cache_bytes = 0;  // a GPU reads the arena alone
    HGA_RETURN_IF_ERROR(engine_options.Validate(geometry));
    LogInfo("prompts attend everything", {{"up_to_tokens", engine_options.dense_prefill_tokens}});
  }
  HGA_ASSIGN_OR_RETURN(auto engine, Engine::Start(Describe(*model, geometry, method), engine_options, backend.get(),
                                                  store.get(), &link, registry, trace.get()));
  const uint32_t threads = ThreadsOf(o.threads);
  WorkerService service(model.get(), engine.get(), store.get(), &link,
                        {backend->name(), threads, geometry.bytes_per_token()});
  DaemonOptions daemon_options;
  daemon_options.name = "gpu_worker";
  daemon_options.listen = o.listen;
  daemon_options.metrics_listen = o.metrics_listen;
  HGA_ASSIGN_OR_RETURN(auto daemon, Daemon::Start(daemon_options, {&service}, registry));
  daemon->SetServing(true);
  LogInfo("serving", {{"model", model->weights.config.name}, {"backend", backend->name()}});
  daemon->RunUntilSignal([&] { engine->Stop(); });
  return absl::OkStatus();
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::InitDaemon("gpu_worker");
  hga::GpuWorkerOptions options;
  if (const auto exit_code = hga::ParseOptions(argc, argv, &options); exit_code.has_value()) return *exit_code;
  hga::SetLogLevel(options.watch.log_level);
  // What a GPU needs is planned with the options that it would have.
  const hga::EngineOptions planned = hga::EngineOnDevice(options, hga::KvGeometry(), 0);
  const absl::Status status = options.sizes ? hga::WriteSizes(planned, options.device_summaries, std::cout)
                              : options.inspect.path.empty() ? hga::Serve(options)
                                                             : hga::Inspect(options.inspect, planned, std::cout);
  if (status.ok()) return 0;
  hga::LogError(std::string(status.message()));
  return 1;
}
