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

// Scores of one KV head's chunks and units for one query head.
class Scorer {
 public:
  Scorer(const SequenceIndex& index, uint32_t layer, uint32_t kv_head, const bf16* query)
      : index_(index),
        method_(index.method()),
        g_(index.geometry()),
        layer_(layer),
        kv_head_(kv_head),
        query_(g_.head_dim) {
    for (uint32_t d = 0; d < g_.head_dim; ++d) {
      query_[d] = ToFloat(query[d]) / std::sqrt(static_cast<float>(g_.head_dim));
    }
    weights_ = query_;
    if (method_.form != SummaryForm::kSketch) return;
    spread_ = WeighForSketch(method_.deal(layer, kv_head), g_.head_dim, weights_.data());
  }

  double Chunk(uint32_t chunk) const {
    return ScoreUnit(method_.form, method_.coarse_layout(g_), query_.data(), index_.Coarse(layer_, kv_head_, chunk));
  }

  // What the first level ranks it by.
  double Rank(uint32_t chunk) const {
    const int16_t* extents = index_.Extents(layer_, kv_head_, chunk);
    if (extents == nullptr) return Chunk(chunk);
    const SketchDeal& deal = *method_.deal(layer_, kv_head_);
    SketchScales scales;
    std::memcpy(&scales, index_.Coarse(layer_, kv_head_, chunk) + g_.head_dim, sizeof(scales));
    double steps = 0;
    for (uint32_t i = 0; i < kWideChannels; ++i) {
      const double q = query_[deal.wide[i]];
      steps += q > 0 ? q * extents[i] : -q * extents[kWideChannels + i];
    }
    return Chunk(chunk) + steps * scales.centre;
  }

  double UnitOf(uint32_t chunk, uint32_t unit) const {
    const uint8_t* part = index_.Fine(layer_, kv_head_, chunk);
    const UnitLayout layout = method_.fine_layout(g_);
    if (method_.form != SummaryForm::kSketch) {
      return ScoreUnit(method_.form, layout, query_.data(), part + unit * layout.bytes());
    }
    const uint8_t* centre = index_.Coarse(layer_, kv_head_, chunk);
    return Chunk(chunk) + SketchScore(weights_.data(), spread_, centre, part, unit, g_.head_dim);
  }

 private:
  const SequenceIndex& index_;
  const SummaryMethod& method_;
  const KvGeometry& g_;
  const uint32_t layer_, kv_head_;
  std::vector<float> query_;
  std::vector<float> weights_;  // of the query, for sketches
  double spread_ = 0;
};

// row = softmax(row), which counts in what `attended` is the log of the sum of exp of, if it is not null. raise: the
// reference is no lower than the scores.
void Softmax(const float* attended, bool raise, std::vector<double>* row) {
  float reference = attended == nullptr ? -3e38f : *attended;
  if (raise || attended == nullptr) {
    reference = std::max(reference, static_cast<float>(*std::max_element(row->begin(), row->end())));
  }
  double sum = attended == nullptr ? 0 : std::exp(*attended - reference);
  for (double& score : *row) sum += score = ToFloat(bf16{WeightOf(static_cast<float>(score), reference)});
  for (double& score : *row) score /= sum;
}

// scores: [query heads][units]; attended: [query heads] or nullptr. Shares of the attention, pooled over the heads.
std::vector<double> Shares(Pooling pooling, const std::vector<std::vector<double>>& scores, const float* attended,
                           bool raise) {
  std::vector<double> pooled(scores[0].size());
  double besides = 0;
  for (size_t h = 0; h < scores.size(); ++h) {
    std::vector<double> row = scores[h];
    if (pooling != Pooling::kSumLogits) Softmax(attended == nullptr ? nullptr : attended + h, raise, &row);
    if (attended != nullptr) besides += attended[h] / scores.size();
    for (size_t i = 0; i < row.size(); ++i) {
      pooled[i] = pooling == Pooling::kMaxSoftmax ? std::max(pooled[i], row[i]) : pooled[i] + row[i] / scores.size();
    }
  }
  if (pooling == Pooling::kSumLogits) {
    const auto mean = static_cast<float>(besides);
    Softmax(attended == nullptr ? nullptr : &mean, raise, &pooled);
  }
  return pooled;
}

struct UnitShare {
  uint32_t kv_head, key;  // its last
  double share;
};

// Best first; equal ones by KV head and position.
void Rank(std::vector<UnitShare>* units) {
  std::stable_sort(units->begin(), units->end(),
                   [](const UnitShare& a, const UnitShare& b) { return a.share > b.share; });
}

// Units of the range that one token chooses from, in order.
std::vector<UnitShare> UnitsOf(const SequenceIndex& index, uint32_t layer, uint32_t kv_head, const RouteBlock& block,
                               uint32_t token, size_t chunks_kept, Pooling pooling) {
  const KvGeometry& g = index.geometry();
  std::vector<Scorer> heads;
  const size_t first_head = size_t{token} * g.query_heads + size_t{kv_head} * g.queries_per_kv_head();
  for (uint32_t h = 0; h < g.queries_per_kv_head(); ++h) {
    heads.emplace_back(index, layer, kv_head, block.queries + (first_head + h) * g.head_dim);
  }
  const float* attended = block.attended == nullptr ? nullptr : block.attended + first_head;
  std::vector<float> per_chunk;
  for (uint32_t h = 0; attended != nullptr && h < heads.size(); ++h) {
    per_chunk.push_back(attended[h] - std::log(static_cast<float>(g.chunk_tokens)));
  }
  std::vector<std::vector<double>> scores(heads.size());
  const uint32_t first = block.first_chunk(g);
  for (size_t h = 0; h < heads.size(); ++h) {
    for (uint32_t c = first; c < block.route_upto; ++c) scores[h].push_back(heads[h].Rank(c));
  }
  const bool raise = index.method().form != SummaryForm::kSketch;
  const std::vector<double> chunk_shares =
      Shares(pooling, scores, per_chunk.empty() ? nullptr : per_chunk.data(), raise);
  std::vector<uint32_t> chunks(chunk_shares.size());
  std::iota(chunks.begin(), chunks.end(), 0);
  std::stable_sort(chunks.begin(), chunks.end(),
                   [&](uint32_t a, uint32_t b) { return chunk_shares[a] > chunk_shares[b]; });
  chunks.resize(std::min(chunks.size(), chunks_kept));
  std::sort(chunks.begin(), chunks.end());

  const uint32_t unit_tokens = index.method().unit_tokens(g);
  std::vector<UnitShare> units;
  for (auto& row : scores) row.clear();
  for (uint32_t c : chunks) {
    for (uint32_t u = 0; u < g.chunk_tokens / unit_tokens; ++u) {
      const uint32_t end = (first + c) * g.chunk_tokens + (u + 1) * unit_tokens;
      if (end <= block.first_key) continue;
      units.push_back({kv_head, end - 1, 0});
      for (size_t h = 0; h < heads.size(); ++h) scores[h].push_back(heads[h].UnitOf(first + c, u));
    }
  }
  const std::vector<double> shares = Shares(pooling, scores, attended, raise);
  for (size_t i = 0; i < units.size(); ++i) units[i].share = shares[i];
  return units;
}

// By key: the token that selected it first.
using Taken = std::map<uint32_t, uint32_t>;

// Takes the best of `units` for a token until `keys` more keys are taken, or what is left is not worth it. heads: KV
// heads that the units belong to.
void TakeUnits(const RouteBlock& block, std::vector<UnitShare> units, uint32_t unit_tokens, uint64_t keys,
               uint32_t heads, uint32_t token, std::vector<Taken>* taken) {
  Rank(&units);
  double left = 0;  // share of the attention that is not selected
  for (const UnitShare& u : units) left += (*taken)[u.kv_head].count(u.key) != 0 ? 0 : u.share;
  for (const UnitShare& u : units) {
    if (keys < unit_tokens || u.share <= 0 || u.share < block.least_share) break;
    if (block.top_p < 1 && left <= heads * (1.0 - block.top_p)) break;
    if ((*taken)[u.kv_head].count(u.key) != 0) continue;
    // A unit may begin before the range.
    for (uint32_t key = std::max(u.key + 1 - unit_tokens, block.first_key); key <= u.key; ++key) {
      (*taken)[u.kv_head].emplace(key, token);
    }
    keys -= unit_tokens;
    left -= u.share;
  }
}

}  // namespace

std::vector<HeadSelection> SelectReference(const SequenceIndex& index, uint32_t layer, const RouteBlock& block,
                                           const SelectOptions& options) {
  const KvGeometry& g = index.geometry();
  const uint32_t unit_tokens = index.method().unit_tokens(g);
  std::vector<Taken> taken(g.kv_heads);
  for (uint32_t t = 0; t < block.tokens && !block.empty(g); ++t) {
    const bool everything = block.budget_keys[t] == kEverything ||
                            (block.least_share <= 0 && block.top_p >= 1 && block.budget_keys[t] >= block.keys(g));
    if (everything) {
      for (Taken& head : taken) {
        for (uint32_t key = block.first_key; key < block.route_upto * g.chunk_tokens; ++key) head.emplace(key, t);
      }
      break;
    }
    const uint64_t budget = std::min(block.budget_keys[t], block.keys(g));
    const size_t best = (budget * options.overprovision + g.chunk_tokens - 1) / g.chunk_tokens;
    std::vector<UnitShare> all;
    uint64_t held = 0;
    for (uint32_t h = 0; h < g.kv_heads; ++h) {
      auto units = UnitsOf(index, layer, h, block, t, std::max<size_t>(best, options.scan_chunks), options.pooling);
      held += taken[h].size();
      if (block.shared) {
        all.insert(all.end(), units.begin(), units.end());
      } else if (budget > taken[h].size()) {
        TakeUnits(block, std::move(units), unit_tokens, budget - taken[h].size(), 1, t, &taken);
      }
    }
    if (block.shared && budget * g.kv_heads > held) {
      TakeUnits(block, std::move(all), unit_tokens, budget * g.kv_heads - held, g.kv_heads, t, &taken);
    }
  }
  std::vector<HeadSelection> heads(g.kv_heads);
  for (uint32_t h = 0; h < g.kv_heads; ++h) {
    std::map<std::pair<uint32_t, uint32_t>, uint64_t> masks;
    for (const auto& [key, token] : taken[h]) {
      masks[{key / g.chunk_tokens, token}] |= uint64_t{1} << key % g.chunk_tokens;
    }
    for (const auto& [place, mask] : masks) heads[h].push_back({place.first, place.second, mask});
  }
  return heads;
}

}  // namespace hga
