// The engine on the CUDA backend, on a simulated device or a real one: answers as on the cpu, and what is found on the
// device.
#include <random>

#include "common/base/check.h"
#include "common/base/temporary_folder.h"
#include "gpu_worker/backend/cuda/route_mirror.h"
#include "gpu_worker/backend/cuda/testing_device.h"
#include "gpu_worker/backend/testing_backend.h"
#include "gpu_worker/engine/channel_energies.h"
#include "gpu_worker/engine/engine.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gtest/gtest.h"
#include "kv_store/client/memory_kv_client.h"
#include "router/client/local_route_client.h"

namespace hga {
namespace {

constexpr uint32_t kAnswerTokens = 12;
constexpr char kMethod[] = "dealt";
// A real device has one kind.
constexpr const char* kDevice = kOnGpu ? "cuda" : "emulated";
constexpr const char* kMapped = kOnGpu ? "cuda" : "emulated_mapped";
constexpr const char* kTight = kOnGpu ? "cuda" : "emulated_tight";

// Of --device_summaries.
uint64_t ThreeChunks(const KvGeometry& g) {
  uint64_t bytes = 1 << 10;
  while (RouteMirror::Plan(g, kMethod, bytes).chunks < 3) bytes += 1 << 10;
  return bytes;
}

class DeviceEngineTest : public testing::Test {
 protected:
  void SetUp() override { HGA_SKIP_WITHOUT_DEVICE(); }
  explicit DeviceEngineTest(KvDtype dtype = KvDtype::kBf16) {
    const TemporaryFolder folder;
    RandomCheckpointOptions options;
    options.hf_class = "Qwen3ForCausalLM";
    HGA_CHECK(WriteRandomCheckpoint(folder.path(), options).ok());
    auto model = LoadModel(folder.path());
    HGA_CHECK(model.ok());
    model_ = *std::move(model);
    described_.geometry = model_->weights.config.Geometry();
    described_.geometry.dtype = dtype;
    described_.vocab_size = model_->weights.config.vocab_size;
    described_.context_tokens = model_->weights.config.context_tokens;
    described_.token_bytes = [](uint32_t) { return std::string(); };
    auto cpu = CreateTestBackend("cpu", model_->weights, described_.geometry, BackendOptions());
    HGA_CHECK(cpu.ok());
    const auto method = PrepareSummaryMethod(kMethod, *model_, described_.geometry, cpu->get());
    HGA_CHECK(method.ok());
    described_.method = *method;
  }

  // An answer that is sampled: the likeliest token of a random model hardly ever changes.
  std::vector<uint32_t> Answer(const std::string& kind, float fraction, DeviceTierUse* use = nullptr,
                               bool early_selection = false, uint64_t summary_bytes = 0,
                               RouteMirrorUse* selected = nullptr) {
    const KvGeometry g = described_.geometry;
    BackendOptions backend_options;
    backend_options.device_summary_bytes = summary_bytes;
    backend_options.summary_method = kMethod;
    auto backend = CreateTestBackend(kind, model_->weights, g, backend_options);
    HGA_CHECK(backend.ok());
    MemoryKvClient store(g);
    RouterLink link([&]() -> absl::StatusOr<std::unique_ptr<RouteClient>> {
      return (*backend)->MirrorRouter(std::make_unique<LocalRouteClient>(g, described_.method), described_.method,
                                      [&](absl::Span<const ChunkHash> chunks, const auto& sink) {
                                        return store.GetSummaries(chunks, sink);
                                      });
    });
    EngineOptions options;
    options.dense_prefill_tokens = 0;
    options.early_selection = early_selection;
    auto engine = Engine::Start(described_, options, backend->get(), &store, &link, nullptr);
    HGA_CHECK(engine.ok());
    EngineRequest request;
    std::mt19937 random(4);
    for (int i = 0; i < 500; ++i) request.tokens.push_back(3 + random() % 250);
    request.max_tokens = kAnswerTokens;
    request.ignore_eos = true;
    request.sampling.temperature = 1;
    if (fraction < 1) request.sampling.top_k = 40;  // picked on the device
    request.sampling.seed = 9;
    request.budget.fraction = fraction;
    request.budget.min_tokens = 16;
    request.budget.dense_decode_tokens = 0;
    auto events = (*engine)->Submit(request);
    HGA_CHECK(events.ok());
    std::vector<uint32_t> tokens;
    for (;;) {
      const auto event = (*events)->Next(absl::Seconds(120));
      EXPECT_TRUE(event.has_value());
      if (!event.has_value() || event->kind == EngineEvent::Kind::kFinished) break;
      EXPECT_NE(event->kind, EngineEvent::Kind::kFailed) << event->status;
      if (event->kind == EngineEvent::Kind::kFailed) break;
      if (event->kind == EngineEvent::Kind::kToken) tokens.push_back(event->token);
    }
    engine->reset();
    if (selected != nullptr) *selected = (*backend)->route_mirror_use();
    if (use != nullptr) *use = (*backend)->device_tier_use();
    return tokens;
  }

  std::unique_ptr<LoadedModel> model_;
  EngineModel described_;
};

TEST_F(DeviceEngineTest, AnswersAsTheCpuDoes) {
  // Its tokens are drawn: a device's rounding moves a draw that the simulated one does not. greedy_test compares there.
  if (kOnGpu) GTEST_SKIP() << "the cpu's tokens are drawn from other bits";
  const auto expected = Answer("cpu", 1.0f);
  EXPECT_EQ(expected.size(), kAnswerTokens);
  for (const char* kind : {kDevice, kTight}) EXPECT_EQ(Answer(kind, 1.0f), expected) << kind;
}

TEST_F(DeviceEngineTest, RoutedStepsFindWhatEarlierOnesBrought) {
  DeviceTierUse use, early;
  const auto roomy = Answer(kMapped, 0.1f, &use);
  EXPECT_EQ(roomy.size(), kAnswerTokens);
  EXPECT_GT(use.hit_bytes, use.fetched_bytes);
  EXPECT_GT(use.fetched_bytes, 0u);
  // Selections asked early bring K/V earlier, and change no token.
  EXPECT_EQ(Answer(kMapped, 0.1f, &early, true), roomy);
  if (!kOnGpu) {  // a real one brings ahead only what is registered
    EXPECT_GT(early.hit_bytes, use.hit_bytes);
  }
  EXPECT_EQ(Answer(kTight, 0.1f, nullptr, true), Answer(kTight, 0.1f));
  // Read where it lies, it is the same, and none of it is kept.
  DeviceTierUse in_place;
  EXPECT_EQ(Answer(kOnGpu ? "cuda" : "emulated_in_place", 0.1f, &in_place), roomy);
  if (!kOnGpu) {
    EXPECT_LT(in_place.hit_bytes, use.hit_bytes);
  }
}

TEST_F(DeviceEngineTest, SelectionsOnTheDeviceChangeNoToken) {
  const auto expected = Answer(kDevice, 0.1f);
  EXPECT_EQ(expected.size(), kAnswerTokens);
  RouteMirrorUse early, roomy, tight;
  EXPECT_EQ(Answer(kDevice, 0.1f, nullptr, true, 4 << 20, &early), expected);
  EXPECT_EQ(Answer(kDevice, 0.1f, nullptr, false, 4 << 20, &roomy), expected);
  EXPECT_GT(roomy.on_device, 0u);
  EXPECT_GT(early.on_device, roomy.on_device);
  EXPECT_EQ(roomy.by_router + early.by_router, 0u);
  // Room for three chunks of seven: the router selects once there are more.
  const uint64_t three = ThreeChunks(described_.geometry);
  EXPECT_EQ(Answer(kDevice, 0.1f, nullptr, false, three, &tight), expected);
  EXPECT_EQ(tight.on_device, 0u);
  EXPECT_EQ(tight.by_router, roomy.on_device);
}

class DeviceEngineInt8Test : public DeviceEngineTest {
 protected:
  DeviceEngineInt8Test() : DeviceEngineTest(KvDtype::kInt8) {}
};

TEST_F(DeviceEngineInt8Test, NeitherTheWayNorWhoSelectsChangesAToken) {
  DeviceTierUse use, past;
  const auto expected = Answer(kMapped, 0.1f, &use);
  EXPECT_EQ(expected.size(), kAnswerTokens);
  EXPECT_GT(use.hit_bytes, 0u);
  EXPECT_EQ(Answer(kOnGpu ? "cuda" : "emulated_in_place", 0.1f, &past), expected);
  if (!kOnGpu) {
    EXPECT_LT(past.hit_bytes, use.hit_bytes);
  }
  EXPECT_EQ(Answer(kTight, 0.1f, nullptr, true), Answer(kTight, 0.1f));
  RouteMirrorUse selected;
  EXPECT_EQ(Answer(kDevice, 0.1f, nullptr, false, 4 << 20, &selected), Answer(kDevice, 0.1f));
  EXPECT_GT(selected.on_device, 0u);
}

}  // namespace
}  // namespace hga
