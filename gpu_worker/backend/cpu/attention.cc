#include "gpu_worker/backend/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "common/base/prefetch.h"
#include "common/kv/kv_rows.h"
#include "gpu_worker/backend/cpu/kernels.h"

namespace hga {
namespace {

// Keys of one part of a decoding row, enough to outweigh the merge.
constexpr uint32_t kPartKeys = 512;
constexpr size_t kLineFloats = kCacheLine / sizeof(float);

// End of the part of a row's runs that begins at `first`.
size_t PartEnd(const std::vector<KvRun>& runs, size_t first) {
  uint32_t keys = 0;
  while (first < runs.size() && keys < kPartKeys) keys += runs[first++].tokens;
  return first;
}

}  // namespace

// Consecutive runs of a list, kTileKeys keys at most.
struct CpuAttention::Tile {
  const KvRun* runs = nullptr;
  uint32_t run_count = 0;
  uint32_t keys = 0;
  uint32_t last_position = 0;  // of its newest key
  uint32_t first_row = 0;      // the latest row from which on all its runs are seen
};

CpuAttention::CpuAttention(const KvGeometry& geometry, uint32_t max_rows, Workers* workers)
    : geometry_(geometry),
      max_rows_(max_rows),
      head_pad_((geometry.head_dim + kHeadPad - 1) / kHeadPad * kHeadPad),
      int8_(geometry.dtype == KvDtype::kInt8),
      scale_(1 / std::sqrt(static_cast<float>(geometry.head_dim))),
      workers_(workers) {
  const size_t states = size_t{max_rows} * geometry.query_heads;
  q_.resize(states * head_pad_);
  o_.resize(states * head_pad_);
  m_.resize(states);
  l_.resize(states);
  value_sum_.resize(size_t{max_rows} * geometry.kv_heads * head_pad_);
  value_count_.resize(size_t{max_rows} * geometry.kv_heads);
  scratch_.resize(workers->threads());
  for (Scratch& s : scratch_) {
    s.keys.resize(size_t{geometry.head_dim} * kTileKeys);
    s.values.resize(size_t{head_pad_} * kTileKeys);
    s.scores.resize(kTileQueries * kTileKeys);
    s.sum.resize(head_pad_);
    s.partial.resize(2 * kLineFloats + geometry.queries_per_kv_head() * (2 + head_pad_));
  }
}

void CpuAttention::Begin(const float* q, const uint32_t* positions, uint32_t rows) {
  rows_ = rows;
  positions_ = positions;
  sums_values_ = false;
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

void CpuAttention::PlanTasks(const AttendPlan& plan) {
  const uint32_t per_head = geometry_.queries_per_kv_head();
  tasks_.clear();
  parted_.clear();
  for (const QueryBlock& block : plan.blocks) {
    for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
      const std::vector<KvRun>& runs = block.runs[head];
      const size_t state = StateIndex(head, block.first_row), row = size_t{head} * max_rows_ + block.first_row;
      float* const sum = plan.sum_values ? &value_sum_[row * head_pad_] : nullptr;
      for (size_t run = 0; run < runs.size();) {
        const size_t end = block.rows == 1 ? PartEnd(runs, run) : runs.size();
        if (run > 0 || end < runs.size()) parted_.push_back(tasks_.size());
        tasks_.push_back({&block, head, run, end, &m_[state], &l_[state], &o_[state * head_pad_], sum,
                          &value_count_[row]});
        run = end;
      }
    }
  }
  const size_t states = parted_.size() * per_head;
  if (part_m_.size() < states) {
    part_m_.resize(states);
    part_l_.resize(states);
    part_o_.resize(states * head_pad_);
    part_value_sum_.resize(parted_.size() * head_pad_);
    part_value_count_.resize(parted_.size());
  }
  std::fill_n(part_m_.begin(), states, -std::numeric_limits<float>::infinity());
  std::fill_n(part_l_.begin(), states, 0.0f);
  std::fill_n(part_o_.begin(), states * head_pad_, 0.0f);
  std::fill_n(part_value_sum_.begin(), parted_.size() * head_pad_, 0.0f);
  std::fill_n(part_value_count_.begin(), parted_.size(), 0.0f);
  for (size_t i = 0; i < parted_.size(); ++i) {
    Task& task = tasks_[parted_[i]];
    task.m = &part_m_[i * per_head];
    task.l = &part_l_[i * per_head];
    task.o = &part_o_[i * per_head * head_pad_];
    if (task.value_sum == nullptr) continue;
    task.value_sum = &part_value_sum_[i * head_pad_];
    task.value_count = &part_value_count_[i];
  }
}

void CpuAttention::MergeParts() {
  const uint32_t per_head = geometry_.queries_per_kv_head();
  for (const size_t at : parted_) {
    const Task& task = tasks_[at];
    const size_t first = StateIndex(task.kv_head, task.block->first_row);
    for (uint32_t q = 0; q < per_head; ++q) {
      if (task.l[q] == 0) continue;
      const size_t state = first + q;
      const float top = std::max(m_[state], task.m[q]);
      const float mine = l_[state] == 0 ? 0.0f : std::exp(m_[state] - top), theirs = std::exp(task.m[q] - top);
      m_[state] = top;
      l_[state] = l_[state] * mine + task.l[q] * theirs;
      float* o = &o_[state * head_pad_];
      for (uint32_t i = 0; i < head_pad_; ++i) o[i] = o[i] * mine + task.o[q * head_pad_ + i] * theirs;
    }
    if (task.value_sum == nullptr) continue;
    const size_t row = size_t{task.kv_head} * max_rows_ + task.block->first_row;
    for (uint32_t i = 0; i < head_pad_; ++i) value_sum_[row * head_pad_ + i] += task.value_sum[i];
    value_count_[row] += *task.value_count;
  }
}

void CpuAttention::ClearValueSums() {
  for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
    const size_t first = size_t{head} * max_rows_;
    std::fill_n(value_sum_.begin() + first * head_pad_, size_t{rows_} * head_pad_, 0.0f);
    std::fill_n(value_count_.begin() + first, rows_, 0.0f);
  }
  sums_values_ = true;
}

void CpuAttention::Attend(const AttendPlan& plan) {
  if (plan.sum_values && !sums_values_) ClearValueSums();
  PlanTasks(plan);
  workers_->Run(static_cast<uint32_t>(tasks_.size()),
                [&](uint32_t task, uint32_t thread) { AttendRuns(tasks_[task], &scratch_[thread]); });
  MergeParts();
}

CpuAttention::Tile CpuAttention::TileAt(const std::vector<KvRun>& runs, size_t i, size_t end) {
  Tile tile;
  tile.runs = runs.data() + i;
  for (; i < end && tile.keys + runs[i].tokens <= kTileKeys; ++i, ++tile.run_count) {
    tile.keys += runs[i].tokens;
    tile.last_position = std::max(tile.last_position, runs[i].position + runs[i].tokens - 1);
    tile.first_row = std::max<uint32_t>(tile.first_row, runs[i].first_row);
  }
  return tile;
}

void CpuAttention::ListLines(const Tile& tile, std::vector<const void*>* lines) const {
  lines->clear();
  for (uint32_t r = 0; r < tile.run_count; ++r) {
    const KvRun& run = tile.runs[r];
    const size_t bytes = run.tokens * geometry_.row_bytes();
    const auto list = [&](const void* from) {
      for (size_t i = 0; i < bytes; i += kCacheLine) lines->push_back(static_cast<const uint8_t*>(from) + i);
    };
    list(run.k);  // of int8 the values lie among the keys
    if (!int8_) list(run.v);
  }
}

void CpuAttention::AttendRuns(const Task& task, Scratch* scratch) {
  if (task.block->rows == 1) return AttendInPlace(task, scratch);
  const std::vector<KvRun>& runs = task.block->runs[task.kv_head];
  Tile next = TileAt(runs, task.first_run, task.end_run);
  BlockQueries queries;
  queries.count = task.block->rows * geometry_.queries_per_kv_head();
  PackQueries(&q_[StateIndex(task.kv_head, task.block->first_row) * head_pad_], queries.count, geometry_.head_dim,
              head_pad_, &scratch->packed);
  queries.packed = scratch->packed.data();
  queries.m = task.m;
  queries.l = task.l;
  queries.o = task.o;
  queries.head_dim = geometry_.head_dim;
  queries.head_pad = head_pad_;
  for (size_t i = task.first_run; i < task.end_run;) {
    const Tile tile = next;
    i += tile.run_count;
    next = TileAt(runs, i, task.end_run);
    ListLines(next, &scratch->ahead);
    AttendTile(task, tile, queries, scratch);
  }
}

void CpuAttention::LoadRun(const KvRun& run, float* keys, float* values) const {
  const uint32_t d = geometry_.head_dim;
  if (int8_) {
    const size_t stride = geometry_.row_stride();
    const uint8_t* const scales = ScalesBehind(run.k, d);
    Int8RowsToFloats(run.k, scales, stride, run.tokens, d, d, keys);
    Int8RowsToFloats(run.v, scales + ScalesOfRow(d), stride, run.tokens, d, head_pad_, values);
    return;
  }
  const auto* const v = static_cast<const bf16*>(run.v);
  Bf16ToFloats(static_cast<const bf16*>(run.k), size_t{run.tokens} * d, keys);
  if (d == head_pad_) return Bf16ToFloats(v, size_t{run.tokens} * d, values);
  for (uint32_t j = 0; j < run.tokens; ++j) Bf16ToFloats(v + size_t{j} * d, d, values + size_t{j} * head_pad_);
}

void CpuAttention::LoadTile(const Task& task, const Tile& tile, Scratch* s) const {
  const uint32_t d = geometry_.head_dim, per_head = geometry_.queries_per_kv_head();
  const uint32_t* const positions = positions_ + task.block->first_row;
  uint32_t key = 0;
  for (uint32_t r = 0; r < tile.run_count; ++r) {
    const KvRun& run = tile.runs[r];
    LoadRun(run, &s->keys[size_t{key} * d], &s->values[size_t{key} * head_pad_]);
    for (uint32_t j = 0; j < run.tokens; ++j, ++key) {
      // Rows ascend by position.
      const uint32_t* const sees = std::lower_bound(positions, positions + task.block->rows, run.position + j);
      s->first[key] = std::max<uint32_t>(run.first_row, static_cast<uint32_t>(sees - positions)) * per_head;
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

void CpuAttention::AddValues(const Task& task, const Tile& tile, Scratch* s) const {
  float weights[kTileKeys], count = 0;
  bool whole = false;  // s->sum is of all keys of the tile
  for (uint32_t row = 0; row < task.block->rows; ++row) {
    const uint32_t position = positions_[task.block->first_row + row];
    const bool sees_all = row >= tile.first_row && tile.last_position <= position;
    if (!whole || !sees_all) {
      std::fill_n(weights, tile.keys, 0.0f);
      Mask(tile, row, position, weights);  // what is not seen becomes -infinity
      for (uint32_t key = 0; key < tile.keys; ++key) weights[key] = weights[key] == 0 ? 1.0f : 0.0f;
      count = std::accumulate(weights, weights + tile.keys, 0.0f);
      std::fill(s->sum.begin(), s->sum.end(), 0.0f);
      for (uint32_t key = 0; key < tile.keys; ++key) {
        const float* values = &s->values[size_t{key} * head_pad_];
        for (uint32_t i = 0; weights[key] != 0 && i < head_pad_; ++i) s->sum[i] += values[i];
      }
      whole = sees_all;
    }
    float* to = task.value_sum + size_t{row} * head_pad_;
    for (uint32_t i = 0; i < head_pad_; ++i) to[i] += s->sum[i];
    task.value_count[row] += count;
  }
}

void CpuAttention::AttendTile(const Task& task, const Tile& tile, const BlockQueries& queries, Scratch* s) {
  LoadTile(task, tile, s);
  if (task.value_sum != nullptr) AddValues(task, tile, s);
  AttendBlock(queries,
              {tile.keys, s->keys.data(), s->values.data(), s->first, s->ahead.data(),
               static_cast<uint32_t>(s->ahead.size())},
              &s->weights);
}

// Goes through a task's runs, some rows at a time.
class CpuAttention::RowCursor {
 public:
  RowCursor(const std::vector<KvRun>& runs, size_t first, size_t end, uint32_t position, const KvGeometry& g)
      : run_(runs.data() + first), end_(runs.data() + end), position_(position),
        row_bytes_(g.row_bytes()) {}

  // The next rows that the query sees; pointers behind them are of some row as well.
  void Take(SeenRows* rows) {
    rows->count = 0;
    for (; run_ != end_ && rows->count < kRowsAtATime; ++run_, at_ = 0) {
      const uint32_t seen = run_->first_row > 0 || run_->position > position_
                                ? 0 : std::min<uint32_t>(run_->tokens, position_ - run_->position + 1);
      for (; at_ < seen && rows->count < kRowsAtATime; ++at_, ++rows->count) {
        rows->k[rows->count] = static_cast<const uint8_t*>(run_->k) + at_ * row_bytes_;
        rows->v[rows->count] = static_cast<const uint8_t*>(run_->v) + at_ * row_bytes_;
      }
      if (at_ < seen) return;
    }
    for (uint32_t i = rows->count; rows->count > 0 && i < kRowsAtATime; ++i) {
      rows->k[i] = rows->k[0];
      rows->v[i] = rows->v[0];
    }
  }

 private:
  const KvRun* run_;
  const KvRun* const end_;
  const uint32_t position_;
  const size_t row_bytes_;
  uint32_t at_ = 0;  // in the run
};

void CpuAttention::AttendInPlace(const Task& task, Scratch* scratch) {
  RowCursor cursor(task.block->runs[task.kv_head], task.first_run, task.end_run, positions_[task.block->first_row],
                   geometry_);
  if (int8_) {
    RoundQueries(&q_[StateIndex(task.kv_head, task.block->first_row) * head_pad_], geometry_.queries_per_kv_head(),
                 head_pad_, &scratch->rounded);
  }
  SeenRows *rows = &scratch->rows[0], *next = &scratch->rows[1];
  cursor.Take(rows);
  for (uint32_t j = 0; j < rows->count; ++j) {
    for (size_t i = 0; i < geometry_.row_bytes(); i += kCacheLine) {
      PrefetchToL2(static_cast<const uint8_t*>(rows->k[j]) + i);
    }
  }
  // Summed up in the thread's own memory: partials of two tasks lie in one cache line.
  const size_t per_head = geometry_.queries_per_kv_head(), floats = per_head * head_pad_;
  Task own = task;
  own.m = &scratch->partial[kLineFloats];
  own.l = std::copy_n(task.m, per_head, own.m);
  own.o = std::copy_n(task.l, per_head, own.l);
  std::copy_n(task.o, floats, own.o);
  for (; rows->count > 0; std::swap(rows, next)) {
    cursor.Take(next);
    AttendRows(own, *rows, next->count > 0 ? *next : *rows, scratch);
  }
  std::copy_n(own.m, per_head, task.m);
  std::copy_n(own.l, per_head, task.l);
  std::copy_n(own.o, floats, task.o);
}

// Of bf16 values are fetched beside the scores, the next keys beside the values; of int8 the next rows beside both.
void CpuAttention::AttendRows(const Task& task, const SeenRows& rows, const SeenRows& next, Scratch* s) const {
  const uint32_t per_head = geometry_.queries_per_kv_head();
  for (uint32_t i = 0; i < per_head; i += kTileQueries) {
    const uint32_t count = std::min(kTileQueries, per_head - i);
    Scores(task, i, count, rows, next, s);
    float keep[kTileQueries];
    for (uint32_t q = 0; q < count; ++q) {
      keep[q] = TileSoftmax(&s->scores[q * kTileKeys], rows.count, task.m + i + q, task.l + i + q);
    }
    AddWeighted(s->scores.data(), keep, count, rows, next, task.o + size_t{i} * head_pad_);
  }
  if (task.value_sum == nullptr) return;
  float ones[kRowsAtATime] = {};
  std::fill_n(ones, rows.count, 1.0f);
  AddWeighted(ones, ones, 1, rows, rows, task.value_sum);
  *task.value_count += static_cast<float>(rows.count);
}

void CpuAttention::Scores(const Task& task, uint32_t first, uint32_t count, const SeenRows& rows, const SeenRows& next,
                          Scratch* s) const {
  if (int8_) {
    return Int8RowScores(s->rounded, first, count, {rows.count, rows.k, next.k}, geometry_.head_dim, head_pad_,
                         s->scores.data());
  }
  const size_t state = StateIndex(task.kv_head, task.block->first_row) + first;
  RowScores(&q_[state * head_pad_], count, rows.k, rows.v, rows.count, geometry_.head_dim, head_pad_,
            s->scores.data());
}

void CpuAttention::AddWeighted(const float* weights, const float* keep, uint32_t count, const SeenRows& rows,
                               const SeenRows& next, float* o) const {
  if (int8_) {
    return Int8RowValues(weights, keep, count, {rows.count, rows.k, next.k}, geometry_.head_dim, head_pad_, o);
  }
  RowValues(weights, keep, count, rows.v, next.k, rows.count, geometry_.head_dim, head_pad_, o);
}

void CpuAttention::LogSumExp(float* out) const {
  const uint32_t per_head = geometry_.queries_per_kv_head();
  for (uint32_t row = 0; row < rows_; ++row) {
    for (uint32_t h = 0; h < geometry_.query_heads; ++h) {
      const size_t state = StateIndex(h / per_head, row) + h % per_head;
      *out++ = m_[state] + std::log(l_[state]);
    }
  }
}

void CpuAttention::AddResidual(const float* missed) {
  if (!sums_values_) return;
  const uint32_t per_head = geometry_.queries_per_kv_head();
  for (uint32_t row = 0; row < rows_; ++row) {
    for (uint32_t h = 0; h < geometry_.query_heads; ++h, ++missed) {
      const size_t state = StateIndex(h / per_head, row) + h % per_head;
      const size_t sums = size_t{h / per_head} * max_rows_ + row;
      if (value_count_[sums] == 0 || !(*missed > -std::numeric_limits<float>::infinity())) continue;
      const float top = std::max(m_[state], *missed);
      const float mine = std::exp(m_[state] - top), theirs = std::exp(*missed - top);
      m_[state] = top;
      l_[state] = l_[state] * mine + theirs;
      float* o = &o_[state * head_pad_];
      const float* sum = &value_sum_[sums * head_pad_];
      const float each = theirs / value_count_[sums];
      for (uint32_t i = 0; i < head_pad_; ++i) o[i] = o[i] * mine + sum[i] * each;
    }
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
