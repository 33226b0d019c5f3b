// Every architecture and weight type that can be loaded, on every backend, from random checkpoints.
#include <cmath>
#include <functional>
#include <random>
#include <string>

#include "common/base/temporary_folder.h"
#include "gpu_worker/backend/cuda/testing_device.h"
#include "gpu_worker/backend/sequence_runner.h"
#include "gpu_worker/backend/testing_backend.h"
#include "gpu_worker/model/hf_model.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

#ifdef HGA_TEST_ON_GPU
const char* const kDevices[] = {"cuda"};
#else
const char* const kDevices[] = {"emulated", "emulated_tight"};
#endif

struct Family {
  const char* name;
  std::function<void(RandomCheckpointOptions*)> set;
};
void Qwen3Moe(RandomCheckpointOptions* o) {
  o->hf_class = "Qwen3MoeForCausalLM";
  o->experts = 6;
  o->experts_per_token = 2;
  o->expert_ffn = 32;
}

const Family kFamilies[] = {
    {"llama", [](RandomCheckpointOptions*) {}},
    {"llama_f32_untied", [](RandomCheckpointOptions* o) { o->dtype = "F32"; }},
    {"llama_f16_tied", [](RandomCheckpointOptions* o) { o->dtype = "F16", o->tied = true; }},
    {"qwen2", [](RandomCheckpointOptions* o) { o->hf_class = "Qwen2ForCausalLM"; }},
    {"qwen3", [](RandomCheckpointOptions* o) { o->hf_class = "Qwen3ForCausalLM"; }},
    {"qwen3moe", Qwen3Moe},
    // Several tiles in each direction, the last ones not whole.
    {"qwen3moe_fp8", [](RandomCheckpointOptions* o) {
       Qwen3Moe(o);
       o->fp8 = true;
       o->hidden = 160;
       o->expert_ffn = 144;
       o->head_dim = 40;
     }},
};

class FamiliesTest : public testing::TestWithParam<Family> {
 protected:
  FamiliesTest() {
    RandomCheckpointOptions options;
    GetParam().set(&options);
    EXPECT_TRUE(WriteRandomCheckpoint(folder_.path(), options).ok());
    auto model = ReadHfModel(folder_.path());
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }
  const ModelWeights& weights() const { return model_->weights; }
  std::vector<uint32_t> Tokens(uint32_t count) const {
    std::mt19937 random(count);
    std::vector<uint32_t> tokens(count);
    for (uint32_t& token : tokens) token = random() % weights().config.vocab_size;
    return tokens;
  }

  TemporaryFolder folder_;
  std::unique_ptr<HfModel> model_;
};

double RelativeError(const std::vector<float>& actual, const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(actual[i] - expected[i], 2);
    size += std::pow(expected[i], 2);
  }
  return actual.size() == expected.size() ? std::sqrt(error / size) : INFINITY;
}

TEST_P(FamiliesTest, CpuMatchesTheReference) {
  SequenceRunner reference("reference", weights()), cpu("cpu", weights());
  // Few rows go by GEMV in float; more of them, where there is GEMM, in bf16.
  EXPECT_LT(RelativeError(cpu.Step(Tokens(5)), reference.Step(Tokens(5))), 0.004);
  EXPECT_LT(RelativeError(cpu.Step(Tokens(61)), reference.Step(Tokens(61))), 0.08);
  EXPECT_LT(RelativeError(cpu.KvRows(), reference.KvRows()), 0.08);
  EXPECT_LT(RelativeError(cpu.Step(Tokens(1)), reference.Step(Tokens(1))), 0.08);
}

// Weights are bf16 on the device, which takes three bits of f16. An expert chosen otherwise would show as far more.
TEST_P(FamiliesTest, TheDeviceMatchesTheReference) {
  HGA_SKIP_WITHOUT_DEVICE();
  for (const char* kind : kDevices) {
    SequenceRunner reference("reference", weights()), device(kind, weights());
    EXPECT_LT(RelativeError(device.Step(Tokens(5)), reference.Step(Tokens(5))), 0.012) << kind;
    EXPECT_LT(RelativeError(device.Step(Tokens(61)), reference.Step(Tokens(61))), 0.08) << kind;
    EXPECT_LT(RelativeError(device.KvRows(), reference.KvRows()), 0.08) << kind;
    EXPECT_LT(RelativeError(device.Step(Tokens(1)), reference.Step(Tokens(1))), 0.08) << kind;
  }
}

TEST_P(FamiliesTest, SameBitsForAnyNumberOfThreads) {
  SequenceRunner one("cpu", weights(), 1), two("cpu", weights(), 2);
  EXPECT_EQ(one.Step(Tokens(40)), two.Step(Tokens(40)));
}

INSTANTIATE_TEST_SUITE_P(Families, FamiliesTest, testing::ValuesIn(kFamilies),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CreateBackendTest, UnknownBackendsAreNamed) {
  TemporaryFolder folder;
  ASSERT_TRUE(WriteRandomCheckpoint(folder.path(), RandomCheckpointOptions()).ok());
  const auto model = ReadHfModel(folder.path());
  const ModelWeights& weights = (*model)->weights;
  EXPECT_EQ(CreateBackend("abacus", weights, weights.config.Geometry(), BackendOptions()).status().code(),
            absl::StatusCode::kInvalidArgument);
#ifndef HGA_CUDA
  const auto cuda = CreateBackend("cuda", weights, weights.config.Geometry(), BackendOptions());
  EXPECT_EQ(cuda.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(cuda.status().message()).find("--config=cuda"), std::string::npos);
#endif
}

TEST(BackendInputTest, WhatDoesNotFitIsRefused) {
  TemporaryFolder folder;
  ASSERT_TRUE(WriteRandomCheckpoint(folder.path(), RandomCheckpointOptions()).ok());
  const auto model = ReadHfModel(folder.path());
  const ModelWeights& weights = (*model)->weights;
  const KvGeometry g = weights.config.Geometry();
  std::vector<bf16> block(g.block_elements());
  for (const char* kind : {"reference", "cpu", "emulated"}) {
    const auto backend = *CreateTestBackend(kind, weights, g, BackendOptions());
    const auto bad = absl::StatusCode::kInvalidArgument;
    EXPECT_EQ(backend->Begin({}).code(), bad);
    EXPECT_EQ(backend->Begin({BatchRow{weights.config.vocab_size, 0, true}}).code(), bad);
    ASSERT_TRUE(backend->Begin({BatchRow{1, 0, true}}).ok());
    EXPECT_EQ(backend->PreAttention(g.layers, {KvRow{block.data(), 0}}).code(), bad);
    EXPECT_EQ(backend->PreAttention(0, {}).code(), bad);
    EXPECT_EQ(backend->PreAttention(0, {KvRow{nullptr, 0}}).code(), bad);
    EXPECT_EQ(backend->PreAttention(0, {KvRow{block.data(), g.chunk_tokens}}).code(), bad);
    ASSERT_TRUE(backend->PreAttention(0, {KvRow{block.data(), 0}}).ok());
    KvRun run;
    run.k = run.v = block.data();
    run.tokens = 1;
    AttendPlan plan;
    plan.blocks = {{0, 1, {{run}, {run}}}};
    EXPECT_TRUE(backend->Attend(plan).ok());
    plan.blocks[0].rows = 2;
    EXPECT_EQ(backend->Attend(plan).code(), bad);
    plan.blocks[0] = {0, 1, {{run}}};
    EXPECT_EQ(backend->Attend(plan).code(), bad);
    run.tokens = static_cast<uint16_t>(g.group_tokens + 1);
    plan.blocks[0] = {0, 1, {{run}, {run}}};
    EXPECT_EQ(backend->Attend(plan).code(), bad);
    run.tokens = 1;
    run.v = nullptr;
    plan.blocks[0] = {0, 1, {{run}, {run}}};
    EXPECT_EQ(backend->Attend(plan).code(), bad);
  }
}

}  // namespace
}  // namespace hga
