// The engine on a tiny random model, without processes, for tests: what must not change a token does not.
#ifndef HGA_GPU_WORKER_ENGINE_TESTING_ENGINE_H_
#define HGA_GPU_WORKER_ENGINE_TESTING_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/engine/engine.h"
#include "gpu_worker/model/loaded_model.h"
#include "gtest/gtest.h"
#include "kv_store/client/memory_kv_client.h"

namespace hga {

// The model of all tests of the engine; lives for ever.
const LoadedModel& TinyModel();
EngineModel DescribeTinyModel();

std::vector<uint32_t> RandomTokens(uint32_t count, uint32_t seed);

double CounterValue(const prometheus::Registry& registry, const std::string& name, const std::string& label_value);

struct Answer {
  absl::Status status;
  std::vector<uint32_t> tokens;
  std::string text;
  RequestStats started, stats;
  FinishReason reason = FinishReason::kStop;
};

class EngineTest : public testing::Test {
 protected:
  EngineTest();

  // Prompts are routed from the first position on where there is something to route.
  static EngineOptions Routed();

  // Another engine with an empty store of so many slots; 0: as many as it takes.
  void Start(bool with_router, uint32_t slots = 0, EngineOptions options = Routed());

  static EngineRequest Request(std::vector<uint32_t> tokens, uint32_t max_tokens, float fraction = 1.0f);
  static EngineRequest Dense(EngineRequest request);
  // The tiny model's likeliest token is the same for any attention; what is sampled is not.
  static EngineRequest Sampled(EngineRequest request, float temperature = 1);
  static EngineRequest InSession(EngineRequest request, const std::string& name, bool append = false);

  // on_token: called with the number of tokens so far, on this thread.
  static Answer Collect(EventStream* events, const std::function<void(size_t)>& on_token = nullptr);
  Answer Run(EngineRequest request, const std::function<void(size_t)>& on_token = nullptr);

  // The router dies once it has answered so often.
  std::shared_ptr<std::atomic<int64_t>> exchanges_left_ = std::make_shared<std::atomic<int64_t>>(INT64_MAX);
  std::shared_ptr<std::atomic<uint64_t>> posts_ = std::make_shared<std::atomic<uint64_t>>(0);
  EngineModel model_;
  ModelWeights weights_;
  std::unique_ptr<MemoryKvClient> store_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<RouterLink> link_;
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<prometheus::Registry> registry_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_TESTING_ENGINE_H_
