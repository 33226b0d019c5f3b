#include "gpu_worker/backend/cpu/attention.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "gpu_worker/backend/cpu/kernels.h"

namespace hga {

// Up to four consecutive runs of a list.
struct CpuAttention::Tile {
  const KvRun* runs = nullptr;
  uint32_t run_count = 0;
  uint32_t keys = 0;
  uint32_t last_position = 0;  // of its newest key
  uint32_t first_row = 0;      // the latest row from which on all its runs are seen
};

CpuAttention::CpuAttention(const KvGeometry& geometry, uint32_t max_rows)
    : geometry_(geometry),
      max_rows_(max_rows),
      head_pad_((geometry.head_dim + kHeadPad - 1) / kHeadPad * kHeadPad),
      scale_(1 / std::sqrt(static_cast<float>(geometry.head_dim))) {
  const size_t states = size_t{max_rows} * geometry.query_heads;
  q_.resize(states * head_pad_);
  o_.resize(states * head_pad_);
  m_.resize(states);
  l_.resize(states);
  scratch_.resize(omp_get_max_threads());
  for (Scratch& s : scratch_) {
    s.keys.resize(size_t{head_pad_} * kTileKeys);
    s.values.resize(size_t{head_pad_} * kTileKeys);
    s.row.resize(head_pad_);
    s.scores.resize(kTileQueries * kTileKeys);
  }
}

void CpuAttention::Begin(const float* q, const uint32_t* positions, uint32_t rows) {
  rows_ = rows;
  positions_ = positions;
  const uint32_t d = geometry_.head_dim, per_head = geometry_.queries_per_kv_head();
  for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
    const size_t first = StateIndex(head, 0), count = size_t{rows} * per_head;
    std::fill_n(m_.begin() + first, count, -std::numeric_limits<float>::infinity());
    std::fill_n(l_.begin() + first, count, 0.0f);
    std::fill_n(o_.begin() + first * head_pad_, count * head_pad_, 0.0f);
    for (uint32_t row = 0; row < rows; ++row) {
      for (uint32_t i = 0; i < per_head; ++i) {
        float* to = &q_[(StateIndex(head, row) + i) * head_pad_];
        const float* from = q + (size_t{row} * geometry_.query_heads + head * per_head + i) * d;
        for (uint32_t j = 0; j < d; ++j) to[j] = from[j] * scale_;
      }
    }
  }
}

void CpuAttention::Attend(const AttendPlan& plan) {
  const int tasks = static_cast<int>(plan.blocks.size() * geometry_.kv_heads);
#pragma omp parallel for schedule(dynamic)
  for (int task = 0; task < tasks; ++task) {
    AttendHead(plan.blocks[task / geometry_.kv_heads], task % geometry_.kv_heads, &scratch_[omp_get_thread_num()]);
  }
}

void CpuAttention::AttendHead(const QueryBlock& block, uint32_t kv_head, Scratch* scratch) {
  const std::vector<KvRun>& runs = block.runs[kv_head];
  for (size_t i = 0; i < runs.size();) {
    Tile tile;
    tile.runs = &runs[i];
    while (i < runs.size() && tile.keys + runs[i].tokens <= kTileKeys) {
      tile.keys += runs[i].tokens;
      tile.last_position = std::max(tile.last_position, runs[i].position + runs[i].tokens - 1);
      tile.first_row = std::max<uint32_t>(tile.first_row, runs[i].first_row);
      ++tile.run_count;
      ++i;
    }
    AttendTile(block, kv_head, tile, scratch);
  }
}

void CpuAttention::LoadTile(const Tile& tile, Scratch* s) const {
  const uint32_t d = geometry_.head_dim;
  uint32_t key = 0;
  for (uint32_t r = 0; r < tile.run_count; ++r) {
    const KvRun& run = tile.runs[r];
    for (uint32_t j = 0; j < run.tokens; ++j, ++key) {
      Bf16ToFloats(run.k + size_t{j} * d, d, s->row.data());
      for (uint32_t i = 0; i < d; ++i) s->keys[size_t{i} * kTileKeys + key] = s->row[i];
      Bf16ToFloats(run.v + size_t{j} * d, d, &s->values[size_t{key} * head_pad_]);
    }
  }
}

void CpuAttention::Mask(const Tile& tile, uint32_t block_row, uint32_t position, float* scores) const {
  if (block_row >= tile.first_row && tile.last_position <= position) return;
  uint32_t key = 0;
  for (uint32_t r = 0; r < tile.run_count; ++r) {
    const KvRun& run = tile.runs[r];
    for (uint32_t j = 0; j < run.tokens; ++j, ++key) {
      if (block_row < run.first_row || run.position + j > position) {
        scores[key] = -std::numeric_limits<float>::infinity();
      }
    }
  }
}

void CpuAttention::AttendTile(const QueryBlock& block, uint32_t kv_head, const Tile& tile, Scratch* s) {
  LoadTile(tile, s);
  const uint32_t per_head = geometry_.queries_per_kv_head(), queries = block.rows * per_head;
  const size_t first = StateIndex(kv_head, block.first_row);
  for (uint32_t i = 0; i < queries; i += kTileQueries) {
    const uint32_t count = std::min(kTileQueries, queries - i);
    TileScores(&q_[(first + i) * head_pad_], count, s->keys.data(), head_pad_, s->scores.data());
    float keep[kTileQueries];
    for (uint32_t q = 0; q < count; ++q) {
      const uint32_t row = (i + q) / per_head;
      float* scores = &s->scores[q * kTileKeys];
      Mask(tile, row, positions_[block.first_row + row], scores);
      keep[q] = TileSoftmax(scores, tile.keys, &m_[first + i + q], &l_[first + i + q]);
    }
    TileValues(s->scores.data(), keep, count, s->values.data(), tile.keys, head_pad_, &o_[(first + i) * head_pad_]);
  }
}

void CpuAttention::Finish(float* out) const {
  const uint32_t d = geometry_.head_dim, per_head = geometry_.queries_per_kv_head();
  for (uint32_t row = 0; row < rows_; ++row) {
    for (uint32_t h = 0; h < geometry_.query_heads; ++h, out += d) {
      const size_t state = StateIndex(h / per_head, row) + h % per_head;
      const float inverse = l_[state] > 0 ? 1 / l_[state] : 0.0f;
      for (uint32_t j = 0; j < d; ++j) out[j] = o_[state * head_pad_ + j] * inverse;
    }
  }
}

}  // namespace hga
