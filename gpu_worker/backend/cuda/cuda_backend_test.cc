// What the conformance suite does not ask for: ragged lists, the device tier, memory, the arena read in place.
#include "gpu_worker/backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "common/base/temporary_folder.h"
#include "gpu_worker/backend/cuda/testing_device.h"
#include "gpu_worker/backend/reference/reference_backend.h"
#include "gpu_worker/backend/top_logits.h"
#include "gpu_worker/model/hf_model.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kHistory = 5 * 64;  // tokens

std::unique_ptr<HfModel> Model(uint32_t query_heads, uint32_t kv_heads, uint32_t head_dim) {
  const TemporaryFolder folder;
  RandomCheckpointOptions options;
  options.query_heads = query_heads;
  options.kv_heads = kv_heads;
  options.head_dim = head_dim;
  EXPECT_TRUE(WriteRandomCheckpoint(folder.path(), options).ok());
  auto model = ReadHfModel(folder.path());
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

// Blocks of random K/V, one for each chunk; every layer reads the same.
class History {
 public:
  explicit History(const KvGeometry& g) : g_(g) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    blocks_.resize(kHistory / g.chunk_tokens + 2);
    for (auto& block : blocks_) {
      block.resize(g.block_elements());
      for (bf16& x : block) x = ToBf16(normal(random));
    }
    for (size_t i = 0; i + 2 < blocks_.size(); ++i) {
      names_.push_back(NextChunkHash(names_.empty() ? ChunkHash() : names_.back(), {7}));
    }
  }
  KvRow Row(uint32_t position) {
    return {blocks_[position / g_.chunk_tokens].data(), position % g_.chunk_tokens};
  }
  KvRun Run(uint32_t head, uint32_t first, uint32_t tokens, uint32_t first_row) const {
    const bf16* block = blocks_[first / g_.chunk_tokens].data();
    return {block + g_.k_row(head, first % g_.chunk_tokens), block + g_.v_row(head, first % g_.chunk_tokens), first,
            static_cast<uint16_t>(tokens), static_cast<uint16_t>(first_row)};
  }
  absl::Span<const ChunkHash> names() const { return names_; }
  std::vector<std::vector<bf16>>& blocks() { return blocks_; }

 private:
  const KvGeometry g_;
  std::vector<std::vector<bf16>> blocks_;
  std::vector<ChunkHash> names_;
};

// Some keys of the history, in runs of any length, seen from any row on; of some KV heads none.
AttendPlan Ragged(const KvGeometry& g, const History& history, uint32_t rows, uint32_t seed) {
  std::mt19937 random(seed);
  AttendPlan plan;
  for (uint32_t first = 0; first < rows; first += g.chunk_tokens) {
    QueryBlock block;
    block.first_row = first;
    block.rows = std::min(g.chunk_tokens, rows - first);
    block.finished = history.names();
    block.runs.resize(g.kv_heads);
    for (uint32_t head = 0; head < g.kv_heads; ++head) {
      if ((seed + head) % 5 == 4) continue;
      for (uint32_t at = random() % 30; at < kHistory;) {
        const uint32_t tokens = std::min<uint32_t>(1 + random() % 16, g.group_tokens - at % g.group_tokens);
        block.runs[head].push_back(history.Run(head, at, tokens, random() % 3 == 0 ? random() % block.rows : 0));
        at += tokens + random() % 40;
      }
    }
    plan.blocks.push_back(block);
  }
  return plan;
}

struct Result {
  std::vector<float> log_sum_exp, logits;
};

// A step of `rows` rows behind the history, attending the plans in every layer, with a hint for the next one.
Result Step(Backend* backend, const KvGeometry& g, History* history, uint32_t rows,
            const std::vector<AttendPlan>& plans, const AttendPlan& hint = {}) {
  std::vector<BatchRow> batch;
  std::vector<KvRow> kv;
  for (uint32_t r = 0; r < rows; ++r) {
    batch.push_back({r % 200 + 1, kHistory + r, true});
    kv.push_back(history->Row(kHistory + r));
  }
  Result result;
  EXPECT_TRUE(backend->Begin(batch).ok());
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    EXPECT_TRUE(backend->PreAttention(layer, kv).ok());
    for (const AttendPlan& plan : plans) EXPECT_TRUE(backend->Attend(plan).ok());
    if (layer + 1 < g.layers) EXPECT_TRUE(backend->Prefetch(layer + 1, hint).ok());
    const float* log_sum_exp = backend->LogSumExp();
    result.log_sum_exp.insert(result.log_sum_exp.end(), log_sum_exp, log_sum_exp + rows * g.query_heads);
    EXPECT_TRUE(backend->PostAttention(layer).ok());
  }
  EXPECT_TRUE(backend->Logits(&result.logits).ok());
  return result;
}

void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isinf(expected[i])) {  // nothing was attended
      ASSERT_EQ(actual[i], expected[i]) << i;
      continue;
    }
    error += std::pow(actual[i] - expected[i], 2);
    size += std::pow(expected[i], 2);
  }
  EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(size));
}

CudaBackendOptions SmallOptions() {
  CudaBackendOptions options;
  options.device_memory_limit = uint64_t{128} << 20;
  options.device_tier_bytes = 2 << 20;
  options.window_bytes = 1 << 20;
  options.gemm_bytes = 0;
  options.tier_unit_tokens = 16;  // runs stay as they are
  return options;
}

std::unique_ptr<CudaBackend> Make(const ModelWeights& weights, const CudaBackendOptions& options,
                                  const SimulatedDeviceOptions& device = {}) {
  auto backend = CudaBackend::Create(MakeTestDevice(device), weights, weights.config.Geometry(),
                                     options);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

struct Heads {
  uint32_t query_heads, kv_heads, head_dim;
};
class RaggedTest : public testing::TestWithParam<Heads> {
 protected:
  void SetUp() override { HGA_SKIP_WITHOUT_DEVICE(); }
};

TEST_P(RaggedTest, ListsOfAnyShapeMatchTheReference) {
  const auto model = Model(GetParam().query_heads, GetParam().kv_heads, GetParam().head_dim);
  const ModelWeights& weights = model->weights;
  const KvGeometry g = weights.config.Geometry();
  ReferenceBackend reference(weights, g, BackendOptions());
  SimulatedDeviceOptions device;
  device.seed = 11;
  const auto cuda = Make(weights, SmallOptions(), device);
  History history(g);
  for (const uint32_t rows : {1u, 2u, 15u, 16u, 17u, 63u, 64u, 65u}) {
    const std::vector<AttendPlan> plans = {Ragged(g, history, rows, rows), Ragged(g, history, rows, rows + 1)};
    const Result expected = Step(&reference, g, &history, rows, plans);
    const Result actual = Step(cuda.get(), g, &history, rows, plans);
    ExpectClose(actual.log_sum_exp, expected.log_sum_exp, rows <= 8 ? 0.01 : 0.03);
    ExpectClose(actual.logits, expected.logits, rows <= 8 ? 0.012 : 0.08);
  }
}

INSTANTIATE_TEST_SUITE_P(Heads, RaggedTest,
                         testing::Values(Heads{2, 2, 16}, Heads{4, 2, 64}, Heads{9, 3, 64}, Heads{4, 1, 24},
                                         Heads{8, 1, 128}, Heads{16, 1, 32}, Heads{2, 1, 256}));

class CudaBackendTest : public testing::Test {
 protected:
  CudaBackendTest() : model_(Model(4, 2, 16)), g_(model_->weights.config.Geometry()), history_(g_) {}
  void SetUp() override { HGA_SKIP_WITHOUT_DEVICE(); }
  const ModelWeights& weights() const { return model_->weights; }

  void RegisterHistory(Backend* backend) {
    for (auto& block : history_.blocks()) {
      ASSERT_TRUE(backend->RegisterKv(block.data(), block.size() * sizeof(bf16)).ok());
    }
  }
  void UnregisterHistory(Backend* backend) {
    for (auto& block : history_.blocks()) backend->UnregisterKv(block.data());
  }

  // Logits of a step whose rows attend each other. spoil: what PreAttention left on the host is overwritten.
  std::vector<float> OwnStep(Backend* backend, uint32_t rows, bool spoil) {
    std::vector<BatchRow> batch;
    std::vector<KvRow> kv;
    for (uint32_t r = 0; r < rows; ++r) {
      batch.push_back({r % 200 + 1, kHistory + r, true});
      kv.push_back(history_.Row(kHistory + r));
    }
    AttendPlan plan;
    for (uint32_t first = 0; first < rows; first += g_.chunk_tokens) {
      QueryBlock block{first, std::min(g_.chunk_tokens, rows - first), {}, history_.names()};
      block.runs.resize(g_.kv_heads);
      for (uint32_t at = 0; at < first + block.rows; at += g_.group_tokens) {
        const uint32_t tokens = std::min(g_.group_tokens, first + block.rows - at);
        for (uint32_t h = 0; h < g_.kv_heads; ++h) block.runs[h].push_back(history_.Run(h, kHistory + at, tokens, 0));
      }
      plan.blocks.push_back(block);
    }
    EXPECT_TRUE(backend->Begin(batch).ok());
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      EXPECT_TRUE(backend->PreAttention(layer, kv).ok());
      for (const KvRow& row : kv) {
        if (spoil) std::fill_n(row.block + g_.v_row(0, row.token_in_chunk), g_.head_dim, ToBf16(3));
      }
      EXPECT_TRUE(backend->Attend(plan).ok());
      EXPECT_TRUE(backend->PostAttention(layer).ok());
    }
    std::vector<float> logits;
    EXPECT_TRUE(backend->Logits(&logits).ok());
    return logits;
  }

  const std::unique_ptr<HfModel> model_;
  const KvGeometry g_;
  History history_;
};

TEST_F(CudaBackendTest, TheTierKeepsWhatWasFetchedAndChangesNothing) {
  CudaBackendOptions without = SmallOptions();
  without.device_tier_bytes = 0;
  const auto kept = Make(weights(), SmallOptions()), fetched = Make(weights(), without);
  EXPECT_EQ(fetched->plan().tier, 0u);
  uint64_t brought[2];
  for (int step = 0; step < 2; ++step) {
    const std::vector<AttendPlan> plans = {Ragged(g_, history_, 1, 20)};
    const Result a = Step(kept.get(), g_, &history_, 1, plans), b = Step(fetched.get(), g_, &history_, 1, plans);
    EXPECT_EQ(a.logits, b.logits) << step;
    EXPECT_EQ(a.log_sum_exp, b.log_sum_exp) << step;
    brought[step] = kept->device_tier_use().fetched_bytes;
  }
  EXPECT_EQ(brought[0], brought[1]) << "the second step found everything";
  EXPECT_GT(kept->device_tier_use().hit_bytes, 0u);
  EXPECT_EQ(fetched->device_tier_use().hit_bytes, 0u);
}

TEST_F(CudaBackendTest, WhatIsNotFinishedIsNeverKept) {
  const auto backend = Make(weights(), SmallOptions());
  AttendPlan plan = Ragged(g_, history_, 1, 20);
  plan.blocks[0].finished = {};
  const Result before = Step(backend.get(), g_, &history_, 1, {plan});
  for (auto& block : history_.blocks()) {
    for (bf16& x : block) x.bits ^= 0x8000;
  }
  const Result after = Step(backend.get(), g_, &history_, 1, {plan});
  EXPECT_NE(before.log_sum_exp, after.log_sum_exp);
  EXPECT_EQ(backend->device_tier_use().hit_bytes, 0u);
}

TEST_F(CudaBackendTest, ATinyTierAndManyLaunchesComeToTheSame) {
  CudaBackendOptions tiny = SmallOptions();
  tiny.device_tier_bytes = 4096;
  tiny.window_bytes = 8192;
  tiny.tier_unit_tokens = 4;
  ReferenceBackend reference(weights(), g_, BackendOptions());
  for (const bool early : {false, true}) {
    SimulatedDeviceOptions device;
    device.early_copies = early;
    const auto backend = Make(weights(), tiny, device);
    for (uint32_t seed = 0; seed < 6; ++seed) {
      const uint32_t rows = 1 + seed % 3 * 20;
      const std::vector<AttendPlan> plans = {Ragged(g_, history_, rows, seed), Ragged(g_, history_, rows, seed + 1)};
      const Result expected = Step(&reference, g_, &history_, rows, plans);
      const Result actual = Step(backend.get(), g_, &history_, rows, plans);
      ExpectClose(actual.log_sum_exp, expected.log_sum_exp, 0.03);
      ExpectClose(actual.logits, expected.logits, 0.08);
    }
  }
}

// Launches are cut by what is attended, so that a tier of any size, filled by whatever came before or ahead of time,
// gives the same bits.
TEST_F(CudaBackendTest, WhatTheTierHoldsChangesNoBit) {
  std::vector<std::vector<float>> results;
  for (const uint64_t tier : {4096, 40960, 2 << 20}) {
    for (const bool hints : {false, true}) {
      CudaBackendOptions options = SmallOptions();
      options.device_tier_bytes = tier;
      options.window_bytes = 16384;
      options.tier_unit_tokens = 4;
      SimulatedDeviceOptions device;
      device.early_copies = hints && tier > 4096;
      const auto backend = Make(weights(), options, device);
      RegisterHistory(backend.get());
      std::vector<float>& all = results.emplace_back();
      for (uint32_t seed = 0; seed < 4; ++seed) {
        const uint32_t rows = 1 + seed % 2 * 20;
        const Result result = Step(backend.get(), g_, &history_, rows, {Ragged(g_, history_, rows, seed)},
                                   hints ? Ragged(g_, history_, rows, seed + seed % 3) : AttendPlan());
        all.insert(all.end(), result.logits.begin(), result.logits.end());
      }
      EXPECT_GT(backend->device_tier_use().fetched_bytes, 0u);
      UnregisterHistory(backend.get());
    }
  }
  for (const auto& other : results) EXPECT_EQ(other, results[0]);
}

TEST_F(CudaBackendTest, HintsBringWhatIsAttendedNext) {
  const auto backend = Make(weights(), SmallOptions());
  RegisterHistory(backend.get());
  const AttendPlan plan = Ragged(g_, history_, 1, 3);
  Step(backend.get(), g_, &history_, 1, {}, plan);
  const uint64_t brought = backend->device_tier_use().fetched_bytes;
  EXPECT_GT(brought, 0u);
  Step(backend.get(), g_, &history_, 1, {plan});
  // All but what the first layer attends, which nothing came before.
  EXPECT_LE(backend->device_tier_use().fetched_bytes - brought, brought / (g_.layers - 1));
  EXPECT_GT(backend->device_tier_use().hit_bytes, 0u);
  UnregisterHistory(backend.get());
}

// K/V of the step's own rows is attended on the device; on the host it is only kept. Unless somebody rewrites it there.
TEST_F(CudaBackendTest, OwnRowsAreAttendedWhereTheyAreMade) {
  for (const uint32_t rows : {1u, 20u, 80u}) {
    std::vector<std::vector<float>> results;
    for (const bool spoil : {false, true}) {
      for (const bool rewritten : {false, true}) {
        const auto backend = Make(weights(), SmallOptions());
        if (rewritten) backend->KvIsRewritten();
        results.push_back(OwnStep(backend.get(), rows, spoil));
      }
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
    EXPECT_NE(results[0], results[3]);
  }
}

TEST_F(CudaBackendTest, GraphsChangeNoBitAndTakeMostLaunches) {
  if (kOnGpu) GTEST_SKIP() << "counts what the simulated device is given";
  std::vector<std::vector<float>> results;
  for (const bool graphs : {false, true}) {
    CudaBackendOptions options = SmallOptions();
    options.graphs = graphs;
    auto device = std::make_unique<SimulatedDevice>(SimulatedDeviceOptions());
    const SimulatedDevice* counts = device.get();
    auto backend = CudaBackend::Create(std::move(device), weights(), g_, options);
    ASSERT_TRUE(backend.ok());
    std::vector<float>& all = results.emplace_back();
    uint64_t launches = 0;
    for (const uint32_t rows : {1u, 2u, 1u, 20u, 1u}) {
      launches = counts->kernel_launches();
      const Result result = Step(backend->get(), g_, &history_, rows, {Ragged(g_, history_, rows, rows)});
      launches = counts->kernel_launches() - launches;
      all.insert(all.end(), result.logits.begin(), result.logits.end());
    }
    EXPECT_EQ(counts->graph_launches(), graphs ? 4 * (g_.layers + 1) : 0);
    // Left of each layer: gather, attention, merge, log-sum-exp. And two for the logits.
    if (graphs) EXPECT_LE(launches, 4 * g_.layers + 2);
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_F(CudaBackendTest, TheBestLogitsAreThoseOfAllLogits) {
  const auto all = Make(weights(), SmallOptions()), best = Make(weights(), SmallOptions());
  const uint32_t vocab = weights().config.vocab_size;
  for (const uint32_t rows : {1u, 11u}) {
    const std::vector<AttendPlan> plans = {Ragged(g_, history_, rows, 2)};
    const Result expected = Step(all.get(), g_, &history_, rows, plans);
    Step(best.get(), g_, &history_, rows, plans);
    for (const uint32_t count : {1u, 5u, kMaxTopLogits}) {
      std::vector<TokenLogit> top, reference;
      ASSERT_TRUE(best->TopLogits(count, &top).ok());
      for (uint32_t r = 0; r < rows; ++r) {
        AppendTopLogits(absl::MakeConstSpan(expected.logits).subspan(size_t{r} * vocab, vocab), count, &reference);
      }
      ASSERT_EQ(top.size(), reference.size());
      for (size_t i = 0; i < top.size(); ++i) {
        EXPECT_EQ(top[i].id, reference[i].id) << i;
        EXPECT_EQ(top[i].logit, reference[i].logit) << i;
      }
    }
    std::vector<TokenLogit> top;
    for (const uint32_t count : {0u, kMaxTopLogits + 1}) EXPECT_FALSE(best->TopLogits(count, &top).ok());
  }
}

// As if the rows were in that layer now.
TEST_F(CudaBackendTest, GuessedQueriesAreTheNextLayersOfWhatIsThere) {
  CudaBackendOptions options = SmallOptions();
  const auto cuda = Make(weights(), options);
  auto cpu = CreateBackend("cpu", weights(), g_, BackendOptions());
  ASSERT_TRUE(cpu.ok());
  std::vector<std::vector<float>> guessed;
  for (Backend* backend : {static_cast<Backend*>(cuda.get()), cpu->get()}) {
    ASSERT_TRUE(backend->Begin({BatchRow{5, kHistory, true}}).ok());
    ASSERT_TRUE(backend->PreAttention(0, {history_.Row(kHistory)}).ok());
    const bf16* queries = backend->GuessQueries(1);
    ASSERT_NE(queries, nullptr);
    std::vector<float>& values = guessed.emplace_back();
    for (uint32_t i = 0; i < g_.query_heads * g_.head_dim; ++i) values.push_back(ToFloat(queries[i]));
    ASSERT_TRUE(backend->Attend(Ragged(g_, history_, 1, 1)).ok());
    ASSERT_TRUE(backend->PostAttention(0).ok());
  }
  ExpectClose(guessed[0], guessed[1], 0.02);
}

TEST_F(CudaBackendTest, BlocksOfTheSameRowsAreAllAttended) {
  ReferenceBackend reference(weights(), g_, BackendOptions());
  const auto backend = Make(weights(), SmallOptions());
  for (const uint32_t rows : {1u, 20u}) {
    AttendPlan plan = Ragged(g_, history_, rows, 1);
    plan.blocks.push_back(Ragged(g_, history_, rows, 2).blocks[0]);
    ExpectClose(Step(backend.get(), g_, &history_, rows, {plan}).log_sum_exp,
                Step(&reference, g_, &history_, rows, {plan}).log_sum_exp, 0.03);
  }
}

TEST_F(CudaBackendTest, RegisteredMemoryIsReadInPlace) {
  const auto copied = Make(weights(), SmallOptions()), in_place = Make(weights(), SmallOptions());
  RegisterHistory(in_place.get());
  for (const uint32_t rows : {1u, 33u}) {
    const std::vector<AttendPlan> plans = {Ragged(g_, history_, rows, 5)};
    EXPECT_EQ(Step(copied.get(), g_, &history_, rows, plans).logits,
              Step(in_place.get(), g_, &history_, rows, plans).logits);
  }
  UnregisterHistory(in_place.get());
}

TEST_F(CudaBackendTest, WhatIsAllocatedIsThePlanToTheByte) {
  for (const bool fp8_moe : {false, true}) {
    const TemporaryFolder folder;
    RandomCheckpointOptions checkpoint;
    if (fp8_moe) {
      checkpoint.hf_class = "Qwen3MoeForCausalLM";
      checkpoint.experts = 6;
      checkpoint.experts_per_token = 2;
      checkpoint.expert_ffn = 48;
      checkpoint.fp8 = true;
    }
    ASSERT_TRUE(WriteRandomCheckpoint(folder.path(), checkpoint).ok());
    const auto model = *ReadHfModel(folder.path());
    CudaBackendOptions options = SmallOptions();
    options.gemm_bytes = 1 << 20;
    options.device_tier_bytes = UINT64_MAX;
    options.device_memory_limit = (uint64_t{16} << 20) + 777;
    const auto backend = Make(model->weights, options);
    const DevicePlan& plan = backend->plan();
    EXPECT_EQ(backend->memory().used(DeviceUse::kWeights), plan.weights);
    EXPECT_EQ(backend->memory().used(DeviceUse::kWorkspace), plan.workspace);
    EXPECT_EQ(backend->memory().used(DeviceUse::kWindow), plan.window);
    EXPECT_EQ(backend->memory().used(DeviceUse::kTier), plan.tier);
    EXPECT_LE(plan.total(), options.device_memory_limit);
    EXPECT_GT(plan.total() + 16 * 16 * 2 * 2 + 256, options.device_memory_limit) << "the tier has the rest";

    options.device_tier_bytes = 0;
    options.device_memory_limit = plan.total() - plan.tier;
    EXPECT_EQ(Make(model->weights, options)->memory().used(), options.device_memory_limit);
    --options.device_memory_limit;
    const auto refused = CudaBackend::Create(MakeTestDevice({}),
                                             model->weights, model->weights.config.Geometry(), options);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_NE(std::string(refused.status().message()).find("weights"), std::string::npos);
  }
}

TEST_F(CudaBackendTest, ADeviceThatIsTooSmallIsRefused) {
  if (kOnGpu) GTEST_SKIP() << "a device has the size it has";
  SimulatedDeviceOptions device;
  device.bytes = 1 << 20;
  for (const uint64_t limit : {uint64_t{0}, uint64_t{64} << 20}) {
    CudaBackendOptions options = SmallOptions();
    options.device_memory_limit = limit;
    const auto refused = CudaBackend::Create(MakeTestDevice(device), weights(), g_, options);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST_F(CudaBackendTest, BadOptionsAreRefused) {
  const auto refused = [&](const CudaBackendOptions& options) {
    return CudaBackend::Create(MakeTestDevice({}), weights(), g_, options)
               .status().code() == absl::StatusCode::kInvalidArgument;
  };
  CudaBackendOptions options = SmallOptions();
  options.tier_unit_tokens = 3;
  EXPECT_TRUE(refused(options));
  options.tier_unit_tokens = 32;
  EXPECT_TRUE(refused(options));
  options = SmallOptions();
  options.window_bytes = 100;
  EXPECT_TRUE(refused(options));
  options = SmallOptions();
  options.max_rows = 0;
  EXPECT_TRUE(refused(options));
}

}  // namespace
}  // namespace hga
