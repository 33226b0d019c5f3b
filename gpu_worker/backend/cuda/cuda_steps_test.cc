// What makes steps faster and must change nothing: hints, tiers of any size, graphs, K/V that stays on the device,
// logits picked there.
#include "gpu_worker/backend/cuda/cuda_backend_fixture.h"
#include "gpu_worker/backend/top_logits.h"

namespace hga {
namespace {

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
    if (graphs) {
      EXPECT_LE(launches, 4 * g_.layers + 2);
    }
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
      std::vector<uint64_t> masses;
      ASSERT_TRUE(best->TopLogits(count, {}, &top, &masses).ok());
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
    std::vector<uint64_t> masses;
    for (const uint32_t count : {0u, kMaxTopLogits + 1}) EXPECT_FALSE(best->TopLogits(count, {}, &top, &masses).ok());
  }
}

// Bit for bit what the host makes of all logits.
TEST_F(CudaBackendTest, PenaltiesAndMassesAreTheHosts) {
  const auto all = Make(weights(), SmallOptions()), best = Make(weights(), SmallOptions());
  const uint32_t vocab = weights().config.vocab_size, rows = 11;
  const std::vector<AttendPlan> plans = {Ragged(g_, history_, rows, 2)};
  Result expected = Step(all.get(), g_, &history_, rows, plans);
  Step(best.get(), g_, &history_, rows, plans);
  std::vector<TopRow> wanted(rows);
  std::vector<uint64_t> seen((vocab + 63) / 64, 0x123456789abcdef1u);
  seen.back() &= ~uint64_t{0} >> (63 - (vocab - 1) % 64);
  for (uint32_t r = 0; r < rows; ++r) {
    if (r % 3 != 0) wanted[r].penalty = r % 3 == 1 ? 1.3f : 0.7f;
    wanted[r].seen = seen;
    if (r % 2 != 0) wanted[r].temperature = 0.3f * static_cast<float>(r);
  }
  std::vector<TokenLogit> top, reference;
  std::vector<uint64_t> masses;
  ASSERT_TRUE(best->TopLogits(7, wanted, &top, &masses).ok());
  ASSERT_EQ(masses.size(), rows);
  for (uint32_t r = 0; r < rows; ++r) {
    const auto logits = absl::MakeSpan(expected.logits).subspan(size_t{r} * vocab, vocab);
    if (wanted[r].penalty != 1) PenalizeLogits(wanted[r].penalty, seen, logits);
    AppendTopLogits(logits, 7, &reference);
    uint64_t mass = 0;
    for (const float logit : logits) {
      if (r % 2 != 0) mass += LogitMass(logit, reference[7 * r].logit, wanted[r].temperature);
    }
    EXPECT_EQ(masses[r], mass) << r;
  }
  ASSERT_EQ(top.size(), reference.size());
  for (size_t i = 0; i < top.size(); ++i) {
    EXPECT_EQ(top[i].id, reference[i].id) << i;
    EXPECT_EQ(top[i].logit, reference[i].logit) << i;
  }
  // All of them are still to be had, as they were.
  std::vector<float> logits, before;
  ASSERT_TRUE(best->Logits(&logits).ok());
  ASSERT_TRUE(all->Logits(&before).ok());
  EXPECT_EQ(logits, before);
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

}  // namespace
}  // namespace hga
