#include "gpu_worker/engine/explain.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/numeric/bits.h"
#include "common/kv/kv_rows.h"

namespace hga {
namespace {

constexpr double kLowest = -std::numeric_limits<double>::infinity();

// One KV head.
class HeadExplainer {
 public:
  HeadExplainer(const ExplainedQuery& q, uint32_t kv_head, const BlockOfChunk& block,
                const std::vector<std::vector<uint8_t>>& records)
      : q_(q), g_(*q.geometry), kv_head_(kv_head), per_head_(g_.queries_per_kv_head()),
        masks_(q.routed.empty() ? 0 : q.routed.end - q.routed.first), mass_(q.position + 1),
        estimated_(masks_.size()), coarse_share_(masks_.size()) {
    for (uint32_t c = 0; c < masks_.size(); ++c) {
      out_.chunks.push_back({q.routed.first + c, (q.routed.first + c) * g_.chunk_tokens});
    }
    for (ExplainedChunk& chunk : out_.chunks) chunk.coarse = chunk.fine = chunk.exact = kLowest;
    if (q.selection != nullptr) {
      for (const SelectedChunk& s : (*q.selection)[kv_head]) {
        if (s.first_token == 0) masks_[s.chunk - q.routed.first] |= s.mask;
      }
    }
    for (uint32_t h = 0; h < per_head_; ++h) AddQueryHead(h, block, records);
  }

  ExplainedHead Finish() {
    for (uint32_t key = 0; key <= q_.position; ++key) {
      ExplainedChunk* chunk = ChunkOf(key);
      if (chunk == nullptr) {
        out_.always += mass_[key];
        continue;
      }
      chunk->mass += mass_[key];
      const bool selected = masks_[chunk->chunk - q_.routed.first] >> (key % g_.chunk_tokens) & 1;
      (selected ? out_.selected : out_.missed) += mass_[key];
    }
    std::vector<uint32_t> order(masks_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return coarse_share_[a] > coarse_share_[b]; });
    for (uint32_t rank = 0; rank < order.size(); ++rank) out_.chunks[order[rank]].coarse_rank = rank + 1;
    for (uint32_t c = 0; c < masks_.size(); ++c) {
      out_.chunks[c].keys = absl::popcount(masks_[c]);
      out_.chunks[c].estimated = estimated_[c];
      out_.keys += out_.chunks[c].keys;
    }
    return std::move(out_);
  }

 private:
  // nullptr: the key is attended always.
  ExplainedChunk* ChunkOf(uint32_t key) {
    const uint32_t chunk = key / g_.chunk_tokens;
    if (key < q_.first_key || chunk < q_.routed.first || chunk >= q_.routed.end) return nullptr;
    return &out_.chunks[chunk - q_.routed.first];
  }

  void AddQueryHead(uint32_t h, const BlockOfChunk& block, const std::vector<std::vector<uint8_t>>& records) {
    std::vector<float> query(g_.head_dim);
    const bf16* in = q_.query + (size_t{kv_head_} * per_head_ + h) * g_.head_dim;
    for (uint32_t d = 0; d < g_.head_dim; ++d) {
      query[d] = ToFloat(in[d]) / std::sqrt(static_cast<float>(g_.head_dim));
    }
    AddEstimates(query, AddExact(query, block), records);
  }

  // Returns log of the sum of exp over what is attended always.
  double AddExact(const std::vector<float>& query, const BlockOfChunk& block) {
    std::vector<double> scores(q_.position + 1);
    double top = kLowest, always = 0, all = 0;
    std::vector<bf16> k(g_.head_dim);
    for (uint32_t key = 0; key <= q_.position; ++key) {
      ReadKey(g_, PlaceInBlock(g_, block(key / g_.chunk_tokens), kv_head_, key % g_.chunk_tokens), k.data());
      for (uint32_t d = 0; d < g_.head_dim; ++d) scores[key] += double{query[d]} * ToFloat(k[d]);
      top = std::max(top, scores[key]);
      ExplainedChunk* chunk = ChunkOf(key);
      if (chunk != nullptr && scores[key] > chunk->exact) {
        chunk->exact = scores[key];
        chunk->best_key = key;
      }
    }
    for (uint32_t key = 0; key <= q_.position; ++key) {
      const double e = std::exp(scores[key] - top);
      all += e;
      if (ChunkOf(key) == nullptr) always += e;
    }
    for (uint32_t key = 0; key <= q_.position; ++key) mass_[key] += std::exp(scores[key] - top) / all / per_head_;
    return top + std::log(always);
  }

  void AddEstimates(const std::vector<float>& query, double always, const std::vector<std::vector<uint8_t>>& records) {
    const uint32_t unit_tokens = q_.method->unit_tokens(g_), units = g_.chunk_tokens / unit_tokens;
    std::vector<double> coarse(records.size()), fine(records.size() * units);
    for (size_t c = 0; c < records.size(); ++c) {
      const uint8_t* record = records[c].data() + kv_head_ * q_.method->record_bytes(g_);
      ScoreRecord(g_, *q_.method, q_.layer, kv_head_, query.data(), record, &coarse[c], &fine[c * units]);
      out_.chunks[c].coarse = std::max(out_.chunks[c].coarse, coarse[c]);
      for (uint32_t u = 0; u < units; ++u) {
        const bool before = ((q_.routed.first + c) * g_.chunk_tokens + (u + 1) * unit_tokens) <= q_.first_key;
        if (before) fine[c * units + u] = kLowest;
        out_.chunks[c].fine = std::max(out_.chunks[c].fine, fine[c * units + u]);
      }
    }
    AddShares(coarse, always - std::log(static_cast<double>(g_.chunk_tokens)), &coarse_share_);
    std::vector<double> shares(fine.size());
    AddShares(fine, always - std::log(static_cast<double>(unit_tokens)), &shares);
    for (size_t i = 0; i < shares.size(); ++i) {
      estimated_[i / units] += shares[i];
      if (masks_[i / units] >> (i % units * unit_tokens + unit_tokens - 1) & 1) out_.estimated += shares[i];
    }
  }

  // Adds the softmax over the scores and `besides`, divided by the number of query heads.
  void AddShares(const std::vector<double>& scores, double besides, std::vector<double>* shares) const {
    double top = besides, sum = 0;
    for (double score : scores) top = std::max(top, score);
    for (double score : scores) sum += std::exp(score - top);
    sum += std::exp(besides - top);
    for (size_t i = 0; i < scores.size(); ++i) (*shares)[i] += std::exp(scores[i] - top) / sum / per_head_;
  }

  const ExplainedQuery& q_;
  const KvGeometry& g_;
  const uint32_t kv_head_, per_head_;
  std::vector<uint64_t> masks_;                          // selected keys of the routed chunks
  std::vector<double> mass_;                             // of all keys
  std::vector<double> estimated_, coarse_share_;         // of the routed chunks
  ExplainedHead out_;
};

}  // namespace

Explanation Explain(const ExplainedQuery& q, const BlockOfChunk& block) {
  Explanation out;
  out.position = q.position;
  out.sink_tokens = q.first_key;
  out.window_start = q.routed.empty() ? 0 : q.routed.end * q.geometry->chunk_tokens;
  out.method = q.method->name;
  std::vector<std::vector<uint8_t>> records;
  for (uint32_t chunk = q.routed.first; chunk < q.routed.end; ++chunk) {
    records.emplace_back(q.method->layer_bytes(*q.geometry));
    SummarizeBlock(*q.geometry, *q.method, q.layer, block(chunk), records.back().data());
  }
  for (uint32_t head = 0; head < q.geometry->kv_heads; ++head) {
    out.heads.push_back(HeadExplainer(q, head, block, records).Finish());
  }
  uint64_t keys = 0;
  for (const ExplainedHead& head : out.heads) keys += head.keys;
  for (ExplainedHead& head : out.heads) head.keys_share = keys == 0 ? 0 : static_cast<double>(head.keys) / keys;
  if (q.route == nullptr) return out;
  out.budget_keys = std::min(q.route->budget_keys[0], q.route->keys(*q.geometry));
  out.shared = q.route->shared;
  out.least_share = q.route->least_share;
  return out;
}

}  // namespace hga
