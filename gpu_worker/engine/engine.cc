#include "gpu_worker/engine/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Start(const EngineModel& model, const EngineOptions& options,
                                                      Backend* backend, KvClient* store, RouterLink* link,
                                                      std::shared_ptr<prometheus::Registry> registry,
                                                      StepTrace* trace) {
  HGA_RETURN_IF_ERROR(model.geometry.Validate());
  HGA_RETURN_IF_ERROR(options.Validate(model.geometry));
  if (backend->max_rows() < options.prefill_batch_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("--prefill_batch_tokens ", options.prefill_batch_tokens,
                                                   ": the backend takes ", backend->max_rows(), " at a time"));
  }
  auto engine = std::unique_ptr<Engine>(new Engine(model, options, std::move(registry)));
  engine->loop_ = std::make_unique<StepLoop>(model, options, backend, store, link, &engine->metrics_, trace);
  return engine;
}

absl::StatusOr<std::shared_ptr<EventStream>> Engine::Submit(EngineRequest request) {
  const absl::Status valid = Validate(request);
  if (!valid.ok()) {
    metrics_.CountFailure(valid.code());
    return valid;
  }
  auto events = std::make_shared<EventStream>();
  const absl::Status status = loop_->Submit(std::make_shared<const EngineRequest>(std::move(request)), events);
  if (status.ok()) return events;
  metrics_.CountFailure(status.code());
  return status;
}

absl::Status Engine::Validate(const EngineRequest& r) const {
  if (!r.session.empty()) HGA_RETURN_IF_ERROR(ValidateSessionName(r.session));
  if (r.append && r.session.empty()) return absl::InvalidArgumentError("append needs a session");
  if (r.tokens.empty() && !(r.append && r.continuation)) return absl::InvalidArgumentError("the input is empty");
  for (uint32_t id : r.tokens) {
    if (id >= model_.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside the vocabulary of ", model_.vocab_size));
    }
  }
  if (r.tokens.size() + 1 > model_.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", r.tokens.size(),
                                                   " tokens; the model's context holds ", model_.context_tokens,
                                                   ", one of them for the answer"));
  }
  if (r.stop.size() > kMaxStops) {
    return absl::InvalidArgumentError(absl::StrCat(r.stop.size(), " stop strings; at most ", kMaxStops));
  }
  for (const std::string& stop : r.stop) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a stop string has ", stop.size(), " bytes; 1 to ", kMaxStopBytes));
    }
  }
  if (r.probe != nullptr && r.probe->layer >= model_.geometry.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", r.probe->layer, "; the model has layers 0 to ", model_.geometry.layers - 1));
  }
  HGA_RETURN_IF_ERROR(ValidateBudget(r.budget));
  return r.sampling.Validate();
}

}  // namespace hga
