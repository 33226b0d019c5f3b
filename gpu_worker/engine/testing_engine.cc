#include "gpu_worker/engine/testing_engine.h"

#include <random>
#include <utility>

#include "common/base/check.h"
#include "common/base/temporary_folder.h"
#include "gpu_worker/model/tiny_model.h"
#include "router/client/local_route_client.h"

namespace hga {
namespace {

// A router that can be made to die, between layers.
class MortalRouter : public LocalRouteClient {
 public:
  MortalRouter(const KvGeometry& g, std::shared_ptr<std::atomic<int64_t>> exchanges_left,
               std::shared_ptr<std::atomic<uint64_t>> posts)
      : LocalRouteClient(g, *FindSummaryMethod("sketch")), left_(exchanges_left), posts_(posts) {}
  absl::Status Post(const RouteRequest& request) override {
    ++*posts_;
    if (*left_ <= 0) return absl::UnavailableError("the router died");
    --*left_;
    return LocalRouteClient::Post(request);
  }
  bool connected() const override { return *left_ > 0; }

 private:
  const std::shared_ptr<std::atomic<int64_t>> left_;
  const std::shared_ptr<std::atomic<uint64_t>> posts_;
};

}  // namespace

const LoadedModel& TinyModel() {
  static const LoadedModel* const model = [] {
    const TemporaryFolder folder;
    const std::string path = folder.File("tiny.gguf");
    HGA_CHECK(WriteTinyGguf(path, TinyModelOptions()).ok());
    auto loaded = LoadModel(path);
    HGA_CHECK(loaded.ok());
    return loaded->release();  // the mapping outlives the file
  }();
  return *model;
}

EngineModel DescribeTinyModel() {
  const LoadedModel& model = TinyModel();
  EngineModel out;
  out.geometry = model.weights.config.Geometry();
  out.fingerprint = model.fingerprint;
  out.method = *FindSummaryMethod("sketch");
  out.vocab_size = model.weights.config.vocab_size;
  out.context_tokens = model.weights.config.context_tokens;
  out.end_tokens = {model.tokenizer->eos()};
  out.token_bytes = [&model](uint32_t id) { return model.tokenizer->TokenBytes(id); };
  return out;
}

std::vector<uint32_t> RandomTokens(uint32_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> tokens;
  for (uint32_t i = 0; i < count; ++i) tokens.push_back(3 + random() % 250);
  return tokens;
}

double CounterValue(const prometheus::Registry& registry, const std::string& name, const std::string& label_value) {
  for (const prometheus::MetricFamily& family : registry.Collect()) {
    if (family.name != name) continue;
    for (const prometheus::ClientMetric& metric : family.metric) {
      for (const auto& label : metric.label) {
        if (label.value == label_value) return metric.counter.value;
      }
    }
  }
  ADD_FAILURE() << "no " << name;
  return 0;
}

EngineTest::EngineTest() : weights_(TinyModel().weights) { Start(true); }

EngineOptions EngineTest::Routed() {
  EngineOptions options;
  options.dense_prefill_tokens = 0;
  return options;
}

void EngineTest::Start(bool with_router, uint32_t slots, EngineOptions options) {
  engine_.reset();
  link_.reset();
  model_ = DescribeTinyModel();
  store_ = std::make_unique<MemoryKvClient>(model_.geometry, slots);
  backend_ = *CreateBackend("cpu", weights_, model_.geometry, BackendOptions());
  RouterLink::Factory factory;
  if (with_router) {
    factory = [this]() -> absl::StatusOr<std::unique_ptr<RouteClient>> {
      if (*exchanges_left_ <= 0) return absl::UnavailableError("no router");
      return std::make_unique<MortalRouter>(model_.geometry, exchanges_left_, posts_);
    };
  }
  link_ = std::make_unique<RouterLink>(factory, absl::Milliseconds(5));
  registry_ = std::make_shared<prometheus::Registry>();
  engine_ = *Engine::Start(model_, options, backend_.get(), store_.get(), link_.get(), registry_);
}

EngineRequest EngineTest::Request(std::vector<uint32_t> tokens, uint32_t max_tokens, float fraction) {
  EngineRequest request;
  request.tokens = std::move(tokens);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  request.budget.fraction = fraction;
  request.budget.min_tokens = 16;
  request.budget.dense_decode_tokens = 0;
  return request;
}

EngineRequest EngineTest::Dense(EngineRequest request) {
  request.routed = false;
  return request;
}

EngineRequest EngineTest::Sampled(EngineRequest request, float temperature) {
  request.sampling.temperature = temperature;
  return request;
}

EngineRequest EngineTest::InSession(EngineRequest request, const std::string& name, bool append) {
  request.session = name;
  request.append = append;
  return request;
}

Answer EngineTest::Collect(EventStream* events, const std::function<void(size_t)>& on_token) {
  Answer answer;
  for (;;) {
    const auto event = events->Next(absl::Seconds(60));
    if (!event.has_value()) {
      answer.status = absl::DeadlineExceededError("no event");
      return answer;
    }
    switch (event->kind) {
      case EngineEvent::Kind::kStarted: answer.started = event->stats; break;
      case EngineEvent::Kind::kProgress: break;
      case EngineEvent::Kind::kToken:
        answer.tokens.push_back(event->token);
        answer.text += event->text;
        if (on_token) on_token(answer.tokens.size());
        break;
      case EngineEvent::Kind::kFinished:
        answer.stats = event->stats;
        answer.reason = event->reason;
        return answer;
      case EngineEvent::Kind::kFailed: answer.status = event->status; return answer;
    }
  }
}

Answer EngineTest::Run(EngineRequest request, const std::function<void(size_t)>& on_token) {
  auto events = engine_->Submit(std::move(request));
  if (events.ok()) return Collect(events->get(), on_token);
  Answer answer;
  answer.status = events.status();
  return answer;
}

}  // namespace hga
