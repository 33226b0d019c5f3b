// K/V of int8 in the host's memory: brought as it is, bf16 on the device.
#include "gpu_worker/backend/cuda/cuda_backend_fixture.h"
#include "gpu_worker/backend/reference/reference_backend.h"

namespace hga {
namespace {

class CudaInt8Test : public CudaBackendTest {
 protected:
  CudaInt8Test() : CudaBackendTest(KvDtype::kInt8) {}
  std::unique_ptr<CudaBackend> MakeInt8(const CudaBackendOptions& options, const SimulatedDeviceOptions& device = {}) {
    return Make(weights(), options, device, KvDtype::kInt8);
  }
};

// Records of every alignment: a token takes 34, 50, 132, 264, 282 and 528 bytes.
TEST_F(CudaInt8Test, ListsOfAnyShapeMatchTheReference) {
  struct Heads {
    uint32_t query_heads, kv_heads, head_dim;
  };
  for (const Heads& heads : {Heads{2, 2, 16}, Heads{4, 1, 24}, Heads{9, 3, 64}, Heads{8, 1, 128}, Heads{12, 1, 136},
                             Heads{2, 1, 256}}) {
    const auto model = Model(heads.query_heads, heads.kv_heads, heads.head_dim);
    const KvGeometry g = GeometryOf(model->weights, KvDtype::kInt8);
    ReferenceBackend reference(model->weights, g, BackendOptions());
    History history(g);
    for (const bool in_place : {false, true}) {
      CudaBackendOptions options = SmallOptions();
      options.in_place = in_place;
      SimulatedDeviceOptions device;
      device.seed = 11;
      device.maps_all_memory = in_place;
      const auto cuda = Make(model->weights, options, device, KvDtype::kInt8);
      for (const uint32_t rows : {1u, 2u, 17u, 65u}) {
        const std::vector<AttendPlan> plans = {Ragged(g, history, rows, rows), Ragged(g, history, rows, rows + 1)};
        const Result expected = Step(&reference, g, &history, rows, plans);
        const Result actual = Step(cuda.get(), g, &history, rows, plans);
        ExpectClose(actual.log_sum_exp, expected.log_sum_exp, rows <= 8 ? 0.01 : 0.03);
        ExpectClose(actual.logits, expected.logits, rows <= 8 ? 0.012 : 0.08);
      }
    }
  }
}

TEST_F(CudaInt8Test, TheWayItComesChangesNoBit) {
  std::vector<std::vector<float>> results;
  for (const uint64_t tier : {0, 4096, 2 << 20}) {
    for (const bool registered : {false, true}) {
      for (const bool in_place : {false, true}) {
        CudaBackendOptions options = SmallOptions();
        options.device_tier_bytes = tier;
        options.tier_unit_tokens = tier == 4096 ? 4 : 16;
        options.in_place = in_place;
        SimulatedDeviceOptions device;
        device.early_copies = registered;
        const auto backend = MakeInt8(options, device);
        if (registered) RegisterHistory(backend.get());
        std::vector<float>& all = results.emplace_back();
        for (const uint32_t rows : {1u, 33u, 1u}) {
          const AttendPlan plan = Ragged(g_, history_, rows, rows);
          const Result result = Step(backend.get(), g_, &history_, rows, {plan}, in_place ? AttendPlan() : plan);
          all.insert(all.end(), result.logits.begin(), result.logits.end());
        }
        if (registered) UnregisterHistory(backend.get());
      }
    }
  }
  for (const auto& other : results) EXPECT_EQ(other, results[0]);
}

// A window that a decoding row's keys do not fit into at once.
TEST_F(CudaInt8Test, ManyLaunchesComeToTheSame) {
  ReferenceBackend reference(weights(), g_, BackendOptions());
  for (const bool in_place : {false, true}) {
    CudaBackendOptions options = SmallOptions();
    options.device_tier_bytes = 4096;
    options.window_bytes = 8192;
    options.tier_unit_tokens = 4;
    options.in_place = in_place;
    const auto backend = MakeInt8(options);
    RegisterHistory(backend.get());
    for (const uint32_t rows : {1u, 2u, 41u}) {
      const std::vector<AttendPlan> plans = {Ragged(g_, history_, rows, rows)};
      const Result expected = Step(&reference, g_, &history_, rows, plans);
      ExpectClose(Step(backend.get(), g_, &history_, rows, plans).log_sum_exp, expected.log_sum_exp, 0.03);
    }
    UnregisterHistory(backend.get());
  }
}

TEST_F(CudaInt8Test, TheBusCarriesWhatTheHostHas) {
  const auto backend = MakeInt8(SmallOptions());
  Step(backend.get(), g_, &history_, 70, {Dense(g_, history_, 70)});
  const uint64_t row = 2 * (g_.head_dim + 1);  // a scale each
  EXPECT_EQ(backend->device_tier_use().fetched_bytes, uint64_t{kHistory} * g_.layers * g_.kv_heads * row);
}

// Block for block what the host makes of the same rows in bf16.
TEST_F(CudaInt8Test, RowsAreRoundedAsTheHostRoundsThem) {
  constexpr uint32_t kRows = 60;
  for (const uint32_t head_dim : {40u, 128u}) {
    const auto model = Model(8, 8, head_dim);
    std::vector<uint8_t> blocks[2];
    KvGeometry g[2];
    for (int i = 0; i < 2; ++i) {
      const KvDtype dtype = i == 0 ? KvDtype::kBf16 : KvDtype::kInt8;
      g[i] = GeometryOf(model->weights, dtype);
      blocks[i].assign(g[i].block_bytes(), 0);
      const auto backend = Make(model->weights, SmallOptions(), {}, dtype);
      backend->KvIsRewritten();  // K/V is there once PreAttention returns
      std::vector<BatchRow> rows;
      std::vector<KvRow> kv;
      for (uint32_t r = 0; r < kRows; ++r) {
        rows.push_back({r % 200 + 1, r, false});
        kv.push_back({blocks[i].data(), r});
      }
      ASSERT_TRUE(backend->Begin(rows).ok());
      ASSERT_TRUE(backend->PreAttention(0, kv).ok());
    }
    std::vector<uint8_t> expected(g[1].block_bytes());
    std::vector<bf16> k(head_dim), v(head_dim);
    for (uint32_t i = 0; i < 8 * kRows; ++i) {
      const KvPlace place = PlaceInBlock(g[0], blocks[0].data(), i / kRows, i % kRows);
      ReadKey(g[0], place, k.data());
      ReadValue(g[0], place, v.data());
      WriteKv(g[1], k.data(), v.data(), expected.data(), i / kRows, i % kRows);
    }
    EXPECT_EQ(blocks[1], expected);
  }
}

// Whether a step's own rows are attended where they are made or from the block that the host has put them into.
TEST_F(CudaInt8Test, OwnRowsAreTheSameFromEitherSide) {
  for (const uint32_t rows : {1u, 20u, 80u}) {
    std::vector<std::vector<float>> results;
    for (const bool rewritten : {false, true}) {
      const auto backend = MakeInt8(SmallOptions());
      if (rewritten) backend->KvIsRewritten();
      results.push_back(OwnStep(backend.get(), rows, false));
    }
    EXPECT_EQ(results[0], results[1]);
    const auto backend = MakeInt8(SmallOptions());
    EXPECT_EQ(OwnStep(backend.get(), rows, /*spoil=*/true), results[0]) << "read from the host";
  }
}

}  // namespace
}  // namespace hga
