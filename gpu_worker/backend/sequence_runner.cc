#include "gpu_worker/backend/sequence_runner.h"

#include <algorithm>

#include "absl/strings/strip.h"
#include "common/kv/kv_rows.h"
#include "gpu_worker/backend/testing_backend.h"
#include "gtest/gtest.h"

namespace hga {

SequenceRunner::SequenceRunner(const std::string& kind, const ModelWeights& weights, int threads)
    : g_(weights.config.Geometry()) {
  BackendOptions options;
  options.threads = threads;
  absl::string_view plain = kind;
  if (absl::ConsumeSuffix(&plain, "_int8")) g_.dtype = KvDtype::kInt8;
  auto created = CreateTestBackend(std::string(plain), weights, g_, options);
  EXPECT_TRUE(created.ok()) << created.status();
  backend_ = *std::move(created);
}

void SequenceRunner::Restart() {
  blocks_.clear();
  names_.clear();
  ++restarts_;
  length_ = 0;
}

std::vector<float> SequenceRunner::Step(const std::vector<uint32_t>& tokens, int parts, int hide_run,
                                        uint32_t hide_before_row) {
  const uint32_t first = length_;
  std::vector<BatchRow> rows;
  for (uint32_t token : tokens) rows.push_back({token, length_++, true});
  while (blocks_.size() * g_.chunk_tokens < length_) {
    names_.push_back(NextChunkHash(names_.empty() ? ChunkHash() : names_.back(), {restarts_}));
    blocks_.emplace_back(g_.layers, std::vector<uint8_t>(g_.block_bytes(), 0x6e));  // garbage must not show
  }
  EXPECT_TRUE(backend_->Begin(rows).ok());
  queries_.clear();
  log_sum_exp_.clear();
  for (uint32_t layer = 0; layer < g_.layers; ++layer) {
    std::vector<KvRow> kv;
    for (const BatchRow& row : rows) {
      kv.push_back({blocks_[row.position / g_.chunk_tokens][layer].data(), row.position % g_.chunk_tokens});
    }
    EXPECT_TRUE(backend_->PreAttention(layer, kv).ok());
    for (size_t i = 0; i < rows.size() * g_.query_heads * g_.head_dim; ++i) {
      queries_.push_back(ToFloat(backend_->queries()[i]));
    }
    for (int part = 0; part < parts; ++part) {
      EXPECT_TRUE(backend_->Attend(Plan(layer, first, rows.size(), part, parts, hide_run, hide_before_row)).ok());
    }
    const float* log_sum_exp = backend_->LogSumExp();
    log_sum_exp_.insert(log_sum_exp_.end(), log_sum_exp, log_sum_exp + rows.size() * g_.query_heads);
    if (missed_.has_value()) {
      EXPECT_TRUE(backend_->AddResidual(std::vector<float>(rows.size() * g_.query_heads, *missed_).data()).ok());
    }
    EXPECT_TRUE(backend_->PostAttention(layer).ok());
  }
  std::vector<float> logits;
  EXPECT_TRUE(backend_->Logits(&logits).ok());
  return logits;
}

std::vector<float> SequenceRunner::KvRows() const {
  std::vector<float> rows;
  for (uint32_t t = 0; t < length_; ++t) {
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      for (uint32_t h = 0; h < g_.kv_heads; ++h) {
        const KvPlace place = PlaceInBlock(g_, blocks_[t / g_.chunk_tokens][layer].data(), h, t % g_.chunk_tokens);
        std::vector<bf16> k(g_.head_dim), v(g_.head_dim);
        ReadKey(g_, place, k.data());
        ReadValue(g_, place, v.data());
        for (uint32_t i = 0; i < g_.head_dim; ++i) {
          rows.push_back(ToFloat(k[i]));
          rows.push_back(ToFloat(v[i]));
        }
      }
    }
  }
  return rows;
}

AttendPlan SequenceRunner::Plan(uint32_t layer, uint32_t first, size_t rows, int part, int parts, int hide_run,
                                uint32_t hide_before_row) const {
  AttendPlan plan;
  plan.sum_values = missed_.has_value();
  for (uint32_t begin = 0; begin < rows; begin += g_.chunk_tokens) {  // query blocks as the engine makes them
    QueryBlock block;
    block.first_row = begin;
    block.rows = std::min<uint32_t>(g_.chunk_tokens, rows - begin);
    block.runs.resize(g_.kv_heads);
    block.finished = absl::MakeConstSpan(names_).first(first / g_.chunk_tokens);
    const uint32_t last = first + begin + block.rows;
    for (uint32_t group = 0; group * g_.group_tokens < last; ++group) {
      if (static_cast<int>(group) % parts != part) continue;
      for (uint32_t h = 0; h < g_.kv_heads; ++h) block.runs[h].push_back(Run(layer, h, group, last));
      if (static_cast<int>(group) == hide_run) {
        for (auto& runs : block.runs) runs.back().first_row = static_cast<uint16_t>(hide_before_row);
      }
    }
    plan.blocks.push_back(block);
  }
  return plan;
}

KvRun SequenceRunner::Run(uint32_t layer, uint32_t head, uint32_t group, uint32_t end) const {
  const uint32_t in_chunk = group % g_.groups_per_chunk();
  const void* block = blocks_[group / g_.groups_per_chunk()][layer].data();
  const KvPlace place = PlaceInBlock(g_, block, head, in_chunk * g_.group_tokens);
  KvRun run;
  run.k = place.k;
  run.v = place.v;
  run.position = group * g_.group_tokens;
  run.tokens = static_cast<uint16_t>(std::min(g_.group_tokens, end - run.position));
  return run;
}

}  // namespace hga
