#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "common/kv/sketch.h"
#include "router/index/score.h"
#include "router/index/select.h"

namespace hga {
namespace {

double Dot(const float* a, const float* b, uint32_t count) {
  double sum = 0;
  for (uint32_t i = 0; i < count; ++i) sum += double{a[i]} * b[i];
  return sum;
}

// Scores of one KV head's chunks and units for one query head.
class Scorer {
 public:
  Scorer(const SequenceIndex& index, uint32_t layer, uint32_t kv_head, const bf16* query)
      : index_(index), method_(index.method()), g_(index.geometry()), layer_(layer), kv_head_(kv_head), query_(g_.head_dim) {
    for (uint32_t d = 0; d < g_.head_dim; ++d) query_[d] = ToFloat(query[d]) / std::sqrt(static_cast<float>(g_.head_dim));
  }

  double Chunk(uint32_t chunk) const {
    return ScoreUnit(method_.form, method_.coarse_layout(g_), query_.data(), index_.Coarse(layer_, kv_head_, chunk));
  }

  double UnitOf(uint32_t chunk, uint32_t unit) const {
    const uint8_t* part = index_.Fine(layer_, kv_head_, chunk);
    const UnitLayout layout = method_.fine_layout(g_);
    if (method_.form != SummaryForm::kSketch) {
      return ScoreUnit(method_.form, layout, query_.data(), part + unit * layout.bytes());
    }
    std::vector<float> rotated = query_, difference(g_.head_dim);
    RotateForSketch(rotated.data(), g_.head_dim);
    SketchToken(index_.Coarse(layer_, kv_head_, chunk), part, unit, g_.head_dim, difference.data());
    return Chunk(chunk) + Dot(rotated.data(), difference.data(), g_.head_dim);
  }

 private:
  const SequenceIndex& index_;
  const SummaryMethod& method_;
  const KvGeometry& g_;
  const uint32_t layer_, kv_head_;
  std::vector<float> query_;
};

// row = softmax(row)
void Softmax(std::vector<double>* row) {
  const double top = *std::max_element(row->begin(), row->end());
  double sum = 0;
  for (double& score : *row) sum += score = RoughExp(static_cast<float>(score - top));
  for (double& score : *row) score /= sum;
}

// scores: [query heads][units]. Indices by pooled softmax, best first, equal ones in order.
std::vector<uint32_t> Ranked(Pooling pooling, const std::vector<std::vector<double>>& scores) {
  std::vector<double> pooled(scores[0].size());
  for (std::vector<double> row : scores) {
    if (pooling != Pooling::kSumLogits) Softmax(&row);
    for (size_t i = 0; i < row.size(); ++i) {
      pooled[i] = pooling == Pooling::kMaxSoftmax ? std::max(pooled[i], row[i]) : pooled[i] + row[i] / scores.size();
    }
  }
  if (pooling == Pooling::kSumLogits) Softmax(&pooled);
  std::vector<uint32_t> order(pooled.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return pooled[a] > pooled[b]; });
  return order;
}

struct UnitPlace {
  uint32_t chunk, unit;
};

// Units of the range, best first, that one token would select.
std::vector<UnitPlace> RankUnits(const SequenceIndex& index, uint32_t layer, uint32_t kv_head, const RouteBlock& block,
                                 uint32_t token, size_t chunks_kept, Pooling pooling) {
  const KvGeometry& g = index.geometry();
  std::vector<Scorer> heads;
  for (uint32_t h = 0; h < g.queries_per_kv_head(); ++h) {
    const size_t head = size_t{kv_head} * g.queries_per_kv_head() + h;
    heads.emplace_back(index, layer, kv_head, block.queries + (size_t{token} * g.query_heads + head) * g.head_dim);
  }
  std::vector<std::vector<double>> scores(heads.size());
  const uint32_t first = block.first_chunk(g);
  for (size_t h = 0; h < heads.size(); ++h) {
    for (uint32_t c = first; c < block.route_upto; ++c) scores[h].push_back(heads[h].Chunk(c));
  }
  std::vector<uint32_t> chunks = Ranked(pooling, scores);
  chunks.resize(std::min(chunks.size(), chunks_kept));
  std::sort(chunks.begin(), chunks.end());

  const uint32_t unit_tokens = index.method().unit_tokens(g);
  std::vector<UnitPlace> units;
  for (auto& row : scores) row.clear();
  for (uint32_t c : chunks) {
    for (uint32_t u = 0; u < g.chunk_tokens / unit_tokens; ++u) {
      if ((first + c) * g.chunk_tokens + (u + 1) * unit_tokens <= block.first_key) continue;
      units.push_back({first + c, u});
      for (size_t h = 0; h < heads.size(); ++h) scores[h].push_back(heads[h].UnitOf(first + c, u));
    }
  }
  std::vector<UnitPlace> ranked;
  for (uint32_t i : Ranked(pooling, scores)) ranked.push_back(units[i]);
  return ranked;
}

}  // namespace

std::vector<HeadSelection> SelectReference(const SequenceIndex& index, uint32_t layer, const RouteBlock& block,
                                           const SelectOptions& options) {
  const KvGeometry& g = index.geometry();
  std::vector<HeadSelection> heads(g.kv_heads);
  const uint32_t unit_tokens = index.method().unit_tokens(g);
  for (uint32_t kv_head = 0; kv_head < g.kv_heads && !block.empty(g); ++kv_head) {
    std::map<uint32_t, uint32_t> first_token;  // by key
    for (uint32_t t = 0; t < block.tokens; ++t) {
      const size_t budget = block.budget_keys[t];
      if (budget >= block.keys(g)) {
        for (uint32_t key = block.first_key; key < block.route_upto * g.chunk_tokens; ++key) first_token.emplace(key, t);
        break;
      }
      if (budget < first_token.size() + unit_tokens) continue;
      const size_t wanted = (budget - first_token.size()) / unit_tokens;
      const size_t best = (wanted * unit_tokens * options.overprovision + g.chunk_tokens - 1) / g.chunk_tokens;
      size_t taken = 0;
      const size_t kept = std::max<size_t>(best, options.scan_chunks);
      for (const UnitPlace& u : RankUnits(index, layer, kv_head, block, t, kept, options.pooling)) {
        const uint32_t key = u.chunk * g.chunk_tokens + u.unit * unit_tokens, end = key + unit_tokens;
        if (taken == wanted) break;
        if (first_token.count(end - 1) != 0) continue;
        for (uint32_t i = std::max(key, block.first_key); i < end; ++i) first_token.emplace(i, t);
        ++taken;
      }
    }
    std::map<std::pair<uint32_t, uint32_t>, uint64_t> masks;
    for (const auto& [key, token] : first_token) {
      masks[{key / g.chunk_tokens, token}] |= uint64_t{1} << key % g.chunk_tokens;
    }
    for (const auto& [place, mask] : masks) heads[kv_head].push_back({place.first, place.second, mask});
  }
  return heads;
}

}  // namespace hga
