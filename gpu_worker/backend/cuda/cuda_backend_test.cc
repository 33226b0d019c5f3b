// What the conformance suite does not ask for: ragged lists, the device tier, memory, the arena read in place.
#include "gpu_worker/backend/cuda/cuda_backend_fixture.h"
#include "gpu_worker/backend/reference/reference_backend.h"

namespace hga {
namespace {

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
                                         Heads{8, 1, 128}, Heads{16, 1, 32}, Heads{2, 1, 256}, Heads{12, 1, 136}));

// Several tiles of kFewKeys keys, cut in the middle of runs and between them.
TEST_P(RaggedTest, LongListsOfFewQueriesMatchTheReference) {
  const auto model = Model(GetParam().query_heads, GetParam().kv_heads, GetParam().head_dim);
  const KvGeometry g = model->weights.config.Geometry();
  ReferenceBackend reference(model->weights, g, BackendOptions());
  SimulatedDeviceOptions device;
  device.seed = 5;
  const auto cuda = Make(model->weights, SmallOptions(), device);
  History history(g);
  for (const uint32_t most : {1u, 3u, 16u}) {
    QueryBlock block;
    block.rows = 2;
    block.finished = history.names();
    block.runs.resize(g.kv_heads);
    std::mt19937 random(most);
    for (auto& runs : block.runs) {
      for (uint32_t at = 0; at < kHistory; at += runs.back().tokens) {
        const uint32_t tokens = std::min<uint32_t>(1 + random() % most, g.group_tokens - at % g.group_tokens);
        runs.push_back(history.Run(&runs - block.runs.data(), at, tokens, random() % 2));
      }
    }
    AttendPlan plan;
    plan.blocks.push_back(block);
    const Result expected = Step(&reference, g, &history, 2, {plan}), actual = Step(cuda.get(), g, &history, 2, {plan});
    ExpectClose(actual.log_sum_exp, expected.log_sum_exp, 0.01);
    ExpectClose(actual.logits, expected.logits, 0.012);
  }
}

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
    for (size_t i = 1; i < block.size(); i += 2) block[i] ^= 0x80;  // signs
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

TEST_F(CudaBackendTest, APromptsHistoryIsBroughtOnceForAllItsBlocks) {
  ReferenceBackend reference(weights(), g_, BackendOptions());
  constexpr uint32_t kRows = 70;  // three blocks
  const std::vector<AttendPlan> plans = {Dense(g_, history_, kRows)};
  const Result expected = Step(&reference, g_, &history_, kRows, plans);
  for (const bool tiny : {false, true}) {  // tiny: in many slices, and nothing is kept
    CudaBackendOptions options = SmallOptions();
    if (tiny) {
      options.device_tier_bytes = 0;
      options.window_bytes = 8192;
    }
    const auto backend = Make(weights(), options);
    const Result actual = Step(backend.get(), g_, &history_, kRows, plans);
    ExpectClose(actual.log_sum_exp, expected.log_sum_exp, 0.03);
    ExpectClose(actual.logits, expected.logits, 0.08);
    const uint64_t once = uint64_t{kHistory} * g_.layers * g_.kv_heads * g_.head_dim * 2 * sizeof(bf16);
    EXPECT_EQ(backend->device_tier_use().fetched_bytes, once);
    // Decoding rows use the tier as ever, and find nothing that a prompt has left there.
    const Result one = Step(backend.get(), g_, &history_, 1, {Dense(g_, history_, 1)});
    EXPECT_EQ(backend->device_tier_use().hit_bytes, 0u);
  }
}

TEST_F(CudaBackendTest, WhatFindsNoRoomInASliceIsAttendedBlockByBlock) {
  ReferenceBackend reference(weights(), g_, BackendOptions());
  CudaBackendOptions options = SmallOptions();
  options.window_bytes = 2048;  // a group of one KV head, or some keys of both
  AttendPlan plan;
  plan.blocks = {QueryBlock{0, 20, {}, history_.names()}};
  plan.blocks[0].runs.resize(g_.kv_heads);
  for (uint32_t head = 0; head < g_.kv_heads; ++head) {
    for (uint32_t group = 0; group < kHistory / g_.group_tokens; ++group) {
      const uint32_t tokens = group < 8 ? 1 : g_.group_tokens;
      plan.blocks[0].runs[head].push_back(history_.Run(head, group * g_.group_tokens, tokens, 0));
    }
  }
  const Result expected = Step(&reference, g_, &history_, 20, {plan});
  const Result actual = Step(Make(weights(), options).get(), g_, &history_, 20, {plan});
  ExpectClose(actual.log_sum_exp, expected.log_sum_exp, 0.03);
  ExpectClose(actual.logits, expected.logits, 0.08);
}

TEST_F(CudaBackendTest, ASharedHistoryCountsForResiduals) {
  ReferenceBackend reference(weights(), g_, BackendOptions());
  const auto backend = Make(weights(), SmallOptions());
  AttendPlan plan = Dense(g_, history_, 40);
  plan.sum_values = true;
  std::vector<float> logits[2];
  Backend* const backends[] = {&reference, backend.get()};
  for (int i = 0; i < 2; ++i) {
    std::vector<BatchRow> batch;
    std::vector<KvRow> kv;
    for (uint32_t r = 0; r < 40; ++r) {
      batch.push_back({r + 1, kHistory + r, true});
      kv.push_back(history_.Row(kHistory + r));
    }
    ASSERT_TRUE(backends[i]->Begin(batch).ok());
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      ASSERT_TRUE(backends[i]->PreAttention(layer, kv).ok());
      ASSERT_TRUE(backends[i]->Attend(plan).ok());
      ASSERT_TRUE(backends[i]->AddResidual(std::vector<float>(40 * g_.query_heads, 7.0f).data()).ok());
      ASSERT_TRUE(backends[i]->PostAttention(layer).ok());
    }
    ASSERT_TRUE(backends[i]->Logits(&logits[i]).ok());
  }
  ExpectClose(logits[1], logits[0], 0.08);
}

TEST_F(CudaBackendTest, RegisteredMemoryIsReadInPlace) {
  CudaBackendOptions options = SmallOptions();
  const auto copied = Make(weights(), options), brought = Make(weights(), options);
  options.in_place = true;
  const auto in_place = Make(weights(), options);
  EXPECT_FALSE(in_place->can_prefetch());
  for (CudaBackend* backend : {brought.get(), in_place.get()}) {
    RegisterHistory(backend);
    for (const uint32_t rows : {1u, 33u}) {
      const std::vector<AttendPlan> plans = {Ragged(g_, history_, rows, 5)};
      const std::vector<float> expected = Step(copied.get(), g_, &history_, rows, plans).logits;
      EXPECT_EQ(Step(backend, g_, &history_, rows, plans).logits, expected);
    }
    UnregisterHistory(backend);  // a device registers memory once
  }
}

TEST_F(CudaBackendTest, WhatCannotBeRegisteredIsCopied) {
  const auto registered = Make(weights(), SmallOptions()), refused = Make(weights(), SmallOptions());
  RegisterHistory(registered.get());
  auto& block = history_.blocks()[0];
  if (kOnGpu) {  // the memory is another backend's
    EXPECT_FALSE(refused->RegisterKv(block.data(), block.size()).ok());
  }
  const std::vector<AttendPlan> plans = {Ragged(g_, history_, 1, 5)};
  const std::vector<float> expected = Step(registered.get(), g_, &history_, 1, plans).logits;
  EXPECT_EQ(Step(refused.get(), g_, &history_, 1, plans).logits, expected);
  UnregisterHistory(registered.get());
}

TEST_F(CudaBackendTest, SummariesTakeAsMuchAsRoomAllows) {
  CudaBackendOptions options = SmallOptions();
  options.device_tier_bytes = UINT64_MAX;
  const DevicePlan without = Make(weights(), options)->plan();
  options.summary_bytes = kSummariesAsRoomAllows;
  const DevicePlan with = Make(weights(), options)->plan();
  EXPECT_GT(with.mirror.chunks, 0u);
  EXPECT_LE(with.mirror.bytes, (without.limit - (without.total() - without.tier)) / 2);
  EXPECT_LE(with.total(), with.limit);
  EXPECT_GT(with.tier, 0u);
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

