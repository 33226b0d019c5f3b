// The worker's engine: validated requests in, events out. The service in front of it and the tests use this.
#ifndef HGA_GPU_WORKER_ENGINE_ENGINE_H_
#define HGA_GPU_WORKER_ENGINE_ENGINE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/engine/step_loop.h"

namespace hga {

// Thread-safe. What is given to it outlives it.
class Engine {
 public:
  // INVALID_ARGUMENT: options that do not fit the model. registry: as in EngineMetrics. trace: of the steps; nullptr:
  // none.
  static absl::StatusOr<std::unique_ptr<Engine>> Start(const EngineModel& model, const EngineOptions& options,
                                                       Backend* backend, KvClient* store, RouterLink* link,
                                                       std::shared_ptr<prometheus::Registry> registry,
                                                       StepTrace* trace = nullptr);
  ~Engine() = default;

  // INVALID_ARGUMENT: the request. RESOURCE_EXHAUSTED: too many wait. UNAVAILABLE: stopping.
  absl::StatusOr<std::shared_ptr<EventStream>> Submit(EngineRequest request);
  // Ends all requests with UNAVAILABLE after saving what is complete; returns at once.
  void Stop() { loop_->Stop(); }

  EngineTotals totals() const { return metrics_.totals(); }
  const EngineOptions& options() const { return options_; }
  const SummaryMethod* summary_method() const { return model_.method; }

 private:
  Engine(const EngineModel& model, const EngineOptions& options, std::shared_ptr<prometheus::Registry> registry)
      : model_(model), options_(options), metrics_(std::move(registry), model.name, model.geometry.block_bytes()) {}
  absl::Status Validate(const EngineRequest& request) const;

  const EngineModel model_;
  const EngineOptions options_;
  EngineMetrics metrics_;
  std::unique_ptr<StepLoop> loop_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_ENGINE_H_
