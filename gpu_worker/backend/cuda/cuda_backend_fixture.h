// What the tests of the CUDA backend share: a small model, K/V of made-up content, steps over ragged lists.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_CUDA_BACKEND_FIXTURE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_CUDA_BACKEND_FIXTURE_H_

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "common/base/temporary_folder.h"
#include "common/kv/kv_rows.h"
#include "common/kv/random_block.h"
#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/cuda/testing_device.h"
#include "gpu_worker/model/hf_model.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gtest/gtest.h"

namespace hga {

inline constexpr uint32_t kHistory = 5 * 64;  // tokens

inline std::unique_ptr<HfModel> Model(uint32_t query_heads, uint32_t kv_heads, uint32_t head_dim) {
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
    blocks_.resize(kHistory / g.chunk_tokens + 2);
    for (auto& block : blocks_) {
      block.resize(g.block_bytes());
      FillRandomBlock(g, &random, block.data());
    }
    for (size_t i = 0; i + 2 < blocks_.size(); ++i) {
      names_.push_back(NextChunkHash(names_.empty() ? ChunkHash() : names_.back(), {7}));
    }
  }
  KvRow Row(uint32_t position) {
    return {blocks_[position / g_.chunk_tokens].data(), position % g_.chunk_tokens};
  }
  KvRun Run(uint32_t head, uint32_t first, uint32_t tokens, uint32_t first_row) const {
    const KvPlace place = PlaceInBlock(g_, blocks_[first / g_.chunk_tokens].data(), head, first % g_.chunk_tokens);
    return {place.k, place.v, first, static_cast<uint16_t>(tokens), static_cast<uint16_t>(first_row)};
  }
  absl::Span<const ChunkHash> names() const { return names_; }
  std::vector<std::vector<uint8_t>>& blocks() { return blocks_; }

 private:
  const KvGeometry g_;
  std::vector<std::vector<uint8_t>> blocks_;
  std::vector<ChunkHash> names_;
};

// Some keys of the history, in runs of any length, seen from any row on; of some KV heads none.
inline AttendPlan Ragged(const KvGeometry& g, const History& history, uint32_t rows, uint32_t seed) {
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

// All of the history, group by group, for every block; then a group that only its block attends.
inline AttendPlan Dense(const KvGeometry& g, const History& history, uint32_t rows) {
  AttendPlan plan;
  for (uint32_t first = 0; first < rows; first += 32) {
    QueryBlock block{first, std::min(32u, rows - first), {}, history.names()};
    block.runs.resize(g.kv_heads);
    for (uint32_t head = 0; head < g.kv_heads; ++head) {
      for (uint32_t at = 0; at < kHistory; at += g.group_tokens) {
        block.runs[head].push_back(history.Run(head, at, g.group_tokens, 0));
      }
      block.runs[head].push_back(history.Run(head, kHistory, 1 + first / 32, 0));
    }
    plan.blocks.push_back(block);
  }
  return plan;
}

struct Result {
  std::vector<float> log_sum_exp, logits;
};

// A step of `rows` rows behind the history, attending the plans in every layer, with a hint for the next one.
inline Result Step(Backend* backend, const KvGeometry& g, History* history, uint32_t rows,
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
    if (layer + 1 < g.layers) {
      EXPECT_TRUE(backend->Prefetch(layer + 1, hint).ok());
    }
    const float* log_sum_exp = backend->LogSumExp();
    result.log_sum_exp.insert(result.log_sum_exp.end(), log_sum_exp, log_sum_exp + rows * g.query_heads);
    EXPECT_TRUE(backend->PostAttention(layer).ok());
  }
  EXPECT_TRUE(backend->Logits(&result.logits).ok());
  return result;
}

inline void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected, double tolerance) {
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

inline CudaBackendOptions SmallOptions() {
  CudaBackendOptions options;
  options.device_memory_limit = uint64_t{128} << 20;
  options.device_tier_bytes = 2 << 20;
  options.window_bytes = 1 << 20;
  options.gemm_bytes = 0;
  options.tier_unit_tokens = 16;  // runs stay as they are
  options.in_place = false;
  return options;
}

inline KvGeometry GeometryOf(const ModelWeights& weights, KvDtype dtype) {
  KvGeometry g = weights.config.Geometry();
  g.dtype = dtype;
  return g;
}

inline std::unique_ptr<CudaBackend> Make(const ModelWeights& weights, const CudaBackendOptions& options,
                                         const SimulatedDeviceOptions& device = {}, KvDtype dtype = KvDtype::kBf16) {
  auto backend = CudaBackend::Create(MakeTestDevice(device), weights, GeometryOf(weights, dtype), options);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

class CudaBackendTest : public testing::Test {
 protected:
  explicit CudaBackendTest(KvDtype dtype = KvDtype::kBf16)
      : model_(Model(4, 2, 16)), g_(GeometryOf(model_->weights, dtype)), history_(g_) {}
  void SetUp() override { HGA_SKIP_WITHOUT_DEVICE(); }
  const ModelWeights& weights() const { return model_->weights; }

  void RegisterHistory(Backend* backend) {
    for (auto& block : history_.blocks()) {
      ASSERT_TRUE(backend->RegisterKv(block.data(), block.size()).ok());
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
        if (spoil) Spoil(row);
      }
      EXPECT_TRUE(backend->Attend(plan).ok());
      EXPECT_TRUE(backend->PostAttention(layer).ok());
    }
    std::vector<float> logits;
    EXPECT_TRUE(backend->Logits(&logits).ok());
    return logits;
  }

  void Spoil(const KvRow& row) const {
    std::vector<bf16> key(g_.head_dim), other(g_.head_dim, ToBf16(3));
    ReadKey(g_, PlaceInBlock(g_, row.block, 0, row.token_in_chunk), key.data());
    WriteKv(g_, key.data(), other.data(), row.block, 0, row.token_in_chunk);
  }

  const std::unique_ptr<HfModel> model_;
  const KvGeometry g_;
  History history_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_CUDA_BACKEND_FIXTURE_H_
