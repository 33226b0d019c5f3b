#include "router/index/select.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "absl/numeric/bits.h"
#include "common/kv/sketch.h"
#include "router/index/score.h"
#include "router/index/top_units.h"

namespace hga {
namespace {

constexpr float kOutOfRange = -3e38f;

// Rows of whole vectors, whatever the vector's width.
size_t Stride(size_t count) { return (count + 63) / 64 * 64; }

void Grow(std::vector<float>* v, size_t size) {
  if (v->size() < size) v->resize(size);
}

// Adds up what passes between its calls.
class StageClock {
 public:
  void Add(std::chrono::nanoseconds* stage) {
    const auto now = std::chrono::steady_clock::now();
    *stage += now - last_;
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// One call of Select.
class LayerSelect {
 public:
  LayerSelect(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, const SelectOptions& options,
              SelectScratch* scratch, HeadSelection* out, float* missed)
      : index_(index), g_(index.geometry()), layer_(layer), block_(block), options_(options), s_(*scratch), out_(out),
        missed_(missed),
        first_chunk_(block.first_chunk(g_)), chunks_(block.route_upto - first_chunk_),
        unit_tokens_(index.method().unit_tokens(g_)), units_per_chunk_(g_.chunk_tokens / unit_tokens_),
        skipped_units_((block.first_key % g_.chunk_tokens) / unit_tokens_),
        coarse_layout_(index.method().coarse_layout(g_)), fine_layout_(index.method().fine_layout(g_)),
        fine_bytes_(index.method().fine_bytes(g_)) {
    s_.heads.resize(g_.kv_heads);
    for (Head& head : s_.heads) {
      head.taken.assign(chunks_, 0);
      // A unit may begin before the range.
      if (chunks_ > 0) head.taken[0] = ~RoutableMask(g_, first_chunk_, block.first_key);
      head.held = 0;
    }
  }

  void Run() {
    const bool all_of_it = block_.least_share <= 0 && block_.top_p >= 1;
    for (uint32_t t = 0; t < block_.tokens; ++t) {
      // Read once: the request may lie in memory that the peer can still write.
      const uint32_t budget = block_.budget_keys[t];
      if (budget == kEverything || (all_of_it && budget >= block_.keys(g_))) {
        TakeEverything(t);
        break;
      }
      SelectToken(t, std::min(budget, block_.keys(g_)));
      if (missed_ != nullptr) SumUpMissed(t);
    }
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      std::sort(out_[h].begin(), out_[h].end(), [](const SelectedChunk& a, const SelectedChunk& b) {
        return a.chunk != b.chunk ? a.chunk < b.chunk : a.first_token < b.first_token;
      });
    }
  }

 private:
  using Head = SelectScratch::Head;

  void TakeEverything(uint32_t token) {
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      for (uint32_t chunk = 0; chunk < chunks_; ++chunk) {
        Take(h, chunk, RoutableMask(g_, first_chunk_ + chunk, block_.first_key), token);
      }
    }
  }

  void Take(uint32_t kv_head, uint32_t chunk, uint64_t mask, uint32_t token) {
    Head& head = s_.heads[kv_head];
    mask &= ~head.taken[chunk];
    if (mask == 0) return;
    head.taken[chunk] |= mask;
    head.held += absl::popcount(mask);
    out_[kv_head].push_back({first_chunk_ + chunk, token, mask});
  }

  // Units that `held` keys leave of `budget`.
  uint32_t Wanted(uint64_t budget, uint64_t held) const {
    return budget > held ? static_cast<uint32_t>((budget - held) / unit_tokens_) : 0;
  }

  // Selects what a token adds; budget: keys per KV head.
  void SelectToken(uint32_t token, uint32_t budget) {
    uint64_t held = 0;
    uint32_t most = 0;
    for (const Head& head : s_.heads) {
      held += head.held;
      most = std::max(most, Wanted(budget, head.held));
    }
    const uint32_t shared = Wanted(uint64_t{budget} * g_.kv_heads, held);
    if ((block_.shared ? shared : most) == 0) {
      if (missed_ != nullptr) ScoreCoarseOfAll(token);
      return;
    }
    size_t units = 0;
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      s_.heads[h].first = units;
      ScoreHead(token, h, budget);
      units += s_.heads[h].units;
    }
    StageClock clock;
    TopCut cut;
    if (block_.shared) cut = Cut(0, units, g_.kv_heads, shared);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      const Head& head = s_.heads[h];
      if (!block_.shared) cut = Cut(head.first, head.units, 1, Wanted(budget, head.held));
      TakeBest(token, h, &cut);
    }
    clock.Add(&s_.times.pick);
  }

  // What to take of the shares [first, first + count), which belong to `heads` KV heads.
  TopCut Cut(size_t first, size_t count, uint32_t heads, uint32_t wanted) {
    const float* shares = s_.shares.data() + first;
    TopCut cut = CutTop(shares, static_cast<uint32_t>(count), wanted, &s_.work);
    if (block_.top_p < 1) CutShare(shares, count, heads, &cut);
    if (!(cut.score >= block_.least_share)) cut = {std::nextafter(block_.least_share, 0.0f), 0};
    return cut;
  }

  // Tightens the cut to the fewest units that, with what is attended anyway, have the share top_p.
  void CutShare(const float* shares, size_t count, uint32_t heads, TopCut* cut) {
    double sum = 0;
    s_.best.clear();
    for (size_t i = 0; i < count; ++i) {
      if (!(shares[i] > 0)) continue;
      sum += shares[i];
      if (shares[i] >= cut->score) s_.best.push_back(shares[i]);
    }
    std::sort(s_.best.begin(), s_.best.end(), std::greater<float>());
    double missing = sum - heads * (1.0 - block_.top_p);  // each KV head's shares, with what is attended, sum to 1
    for (const float share : s_.best) {
      if (missing <= 0) {
        *cut = {share, 0};
        return;
      }
      missing -= share;
    }
  }

  void TakeBest(uint32_t token, uint32_t kv_head, TopCut* cut) {
    const Head& head = s_.heads[kv_head];
    s_.masks.resize(head.chunks.size());
    TakeTop(s_.shares.data() + head.first, static_cast<uint32_t>(head.chunks.size()), units_per_chunk_, cut,
            s_.masks.data());
    for (size_t i = 0; i < head.chunks.size(); ++i) {
      if (s_.masks[i] != 0) Take(kv_head, head.chunks[i], KeysOf(s_.masks[i]), token);
    }
  }

  // Mask of units to mask of keys.
  uint64_t KeysOf(uint64_t units) const {
    if (unit_tokens_ == 1) return units;
    const uint64_t one = ~uint64_t{0} >> (64 - unit_tokens_);
    uint64_t keys = 0;
    for (uint32_t u = 0; u < units_per_chunk_; ++u) {
      if (units >> u & 1) keys |= one << (u * unit_tokens_);
    }
    return keys;
  }

  // Shares of the units of the chunks that the first level keeps, from head->first on.
  void ScoreHead(uint32_t token, uint32_t kv_head, uint32_t budget) {
    Head* head = &s_.heads[kv_head];
    StageClock clock;
    LoadQueries(token, kv_head);
    clock.Add(&s_.times.prepare);
    const uint64_t best = (uint64_t{budget} * options_.overprovision + g_.chunk_tokens - 1) / g_.chunk_tokens;
    ChooseChunks(kv_head, std::max<uint64_t>(best, options_.scan_chunks), &head->chunks);
    clock.Add(&s_.times.coarse);
    ScoreFine(kv_head, head);
    DropTaken(*head);
    clock.Add(&s_.times.fine);
  }

  void LoadQueries(uint32_t token, uint32_t kv_head) {
    const uint32_t heads = g_.queries_per_kv_head();
    const size_t count = size_t{heads} * g_.head_dim, first = size_t{token} * g_.query_heads + size_t{kv_head} * heads;
    s_.queries.resize(count);
    s_.weights.resize(count * coarse_layout_.vectors);
    ToFloats(block_.queries + first * g_.head_dim, count, 1.0f / std::sqrt(static_cast<float>(g_.head_dim)),
             s_.queries.data());
    WeighQueries(s_.queries.data(), heads, coarse_layout_, SecondWeightOf(index_.method().form), s_.weights.data());
    queries_ = {s_.weights.data(), heads, g_.head_dim, coarse_layout_.vectors};
    if (index_.method().form == SummaryForm::kSketch) MakeSketchTables(queries_, &s_.tables);
    attended_ = block_.attended != nullptr ? block_.attended + first : nullptr;
  }

  // Fills `chunks`, ascending, with the best `wanted` of the range; s_.coarse where the second level needs it.
  void ChooseChunks(uint32_t kv_head, uint64_t wanted, std::vector<uint32_t>* chunks) {
    chunks->clear();
    const bool all = wanted >= chunks_;
    if (!all || missed_ != nullptr || index_.method().form == SummaryForm::kSketch) ScoreCoarse(kv_head);
    if (all) {
      for (uint32_t chunk = 0; chunk < chunks_; ++chunk) chunks->push_back(chunk);
      return;
    }
    const size_t stride = Stride(chunks_);
    // The softmax destroys its scores; these are needed again.
    Grow(&s_.scores, stride * queries_.heads);
    Grow(&s_.pooled, stride);
    std::copy_n(CoarseOf(kv_head), stride * queries_.heads, s_.scores.data());
    PoolHeads(options_.pooling, s_.scores.data(), queries_.heads, chunks_, stride, AttendedPerChunk(),
              s_.pooled.data());
    TopCut cut = CutTop(s_.pooled.data(), chunks_, static_cast<uint32_t>(wanted), &s_.work);
    // The row is padded to whole blocks; what lies behind the last chunk is not one.
    std::fill(s_.pooled.begin() + chunks_, s_.pooled.begin() + stride, 0.0f);
    s_.masks.resize(stride / 64);
    TakeTop(s_.pooled.data(), static_cast<uint32_t>(stride / 64), 64, &cut, s_.masks.data());
    for (uint32_t b = 0; b < s_.masks.size(); ++b) {
      for (uint64_t kept = s_.masks[b]; kept != 0; kept &= kept - 1) {
        chunks->push_back(b * 64 + absl::countr_zero(kept));
      }
    }
  }

  // A chunk's score stands for each of its tokens.
  const float* AttendedPerChunk() {
    if (attended_ == nullptr) return nullptr;
    s_.attended.resize(queries_.heads);
    const float per_chunk = std::log(static_cast<float>(g_.chunk_tokens));
    for (uint32_t h = 0; h < queries_.heads; ++h) s_.attended[h] = attended_[h] - per_chunk;
    return s_.attended.data();
  }

  float* CoarseOf(uint32_t kv_head) { return s_.coarse.data() + kv_head * queries_.heads * Stride(chunks_); }

  void ScoreCoarse(uint32_t kv_head) {
    const size_t stride = Stride(chunks_);
    Grow(&s_.coarse, stride * g_.query_heads);
    for (uint32_t i = 0; i < chunks_;) {
      const uint32_t chunk = first_chunk_ + i;
      const uint32_t count = std::min(SequenceIndex::SegmentEnd(chunk), block_.route_upto) - chunk;
      ScoreUnits(queries_, coarse_layout_, index_.Coarse(layer_, kv_head, chunk), count, CoarseOf(kv_head) + i, stride);
      i += count;
    }
  }

  // For a token that selects nothing.
  void ScoreCoarseOfAll(uint32_t token) {
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      LoadQueries(token, h);
      ScoreCoarse(h);
    }
  }

  // Of the keys that are left of each chunk, by the chunk's coarse score.
  void SumUpMissed(uint32_t token) {
    const size_t stride = Stride(chunks_);
    Grow(&s_.left, stride);
    const uint64_t all = ~uint64_t{0} >> (64 - g_.chunk_tokens);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      for (uint32_t c = 0; c < chunks_; ++c) s_.left[c] = static_cast<float>(absl::popcount(all & ~s_.heads[h].taken[c]));
      std::fill(s_.left.begin() + chunks_, s_.left.begin() + stride, 0.0f);
      for (uint32_t q = 0; q < queries_.heads; ++q) {
        missed_[size_t{token} * g_.query_heads + h * queries_.heads + q] =
            LogSumExp(CoarseOf(h) + q * stride, s_.left.data(), chunks_);
      }
    }
  }

  void ScoreFine(uint32_t kv_head, Head* head) {
    const std::vector<uint32_t>& chunks = head->chunks;
    const size_t count = chunks.size() * units_per_chunk_;
    // Sketches are scored 64 tokens at a time, in shorter chunks, too.
    const size_t stride = Stride(count + kSketchTokens - g_.chunk_tokens);
    Grow(&s_.scores, stride * queries_.heads);
    for (size_t i = 0; i < chunks.size();) {
      // Chunks that follow each other in one segment are scored together.
      const uint32_t first = chunks[i], end = SequenceIndex::SegmentEnd(first_chunk_ + first) - first_chunk_;
      uint32_t together = 1;
      while (i + together < chunks.size() && chunks[i + together] == first + together && first + together < end) {
        ++together;
      }
      if (i + together < chunks.size()) Prefetch(kv_head, chunks[i + together]);
      ScoreChunks(kv_head, first, together, s_.scores.data() + i * units_per_chunk_, stride);
      i += together;
    }
    if (skipped_units_ > 0 && !chunks.empty() && chunks[0] == 0) {
      for (uint32_t h = 0; h < queries_.heads; ++h) {
        std::fill_n(s_.scores.begin() + h * stride, skipped_units_, kOutOfRange);
      }
    }
    head->units = static_cast<uint32_t>(count);
    // What is written behind the last unit belongs to the next head, which is scored later.
    Grow(&s_.shares, head->first + stride);
    PoolHeads(options_.pooling, s_.scores.data(), queries_.heads, head->units, stride, attended_,
              s_.shares.data() + head->first);
  }

  // What lies elsewhere than the chunk before it is there when it is scored.
  void Prefetch(uint32_t kv_head, uint32_t chunk) {
    const uint8_t* parts = index_.Fine(layer_, kv_head, first_chunk_ + chunk);
    for (size_t line = 0; line < fine_bytes_; line += 64) __builtin_prefetch(parts + line);
  }

  void ScoreChunks(uint32_t kv_head, uint32_t first, uint32_t count, float* scores, size_t stride) {
    const uint32_t chunk = first_chunk_ + first;
    const uint8_t* parts = index_.Fine(layer_, kv_head, chunk);
    if (index_.method().form == SummaryForm::kSketch) {
      ScoreTokens(queries_, s_.tables, index_.Coarse(layer_, kv_head, chunk), parts, count, g_.chunk_tokens,
                  CoarseOf(kv_head) + first, Stride(chunks_), scores, stride);
    } else {
      ScoreUnits(queries_, fine_layout_, parts, count * units_per_chunk_, scores, stride);
    }
  }

  // What earlier tokens took is not chosen again.
  void DropTaken(const Head& head) {
    for (size_t i = 0; i < head.chunks.size(); ++i) {
      const uint64_t taken = head.taken[head.chunks[i]];
      for (uint32_t u = 0; taken != 0 && u < units_per_chunk_; ++u) {
        if (taken >> ((u + 1) * unit_tokens_ - 1) & 1) s_.shares[head.first + i * units_per_chunk_ + u] = 0;
      }
    }
  }

  const SequenceIndex& index_;
  const KvGeometry& g_;
  const uint32_t layer_;
  const RouteBlock& block_;
  const SelectOptions& options_;
  SelectScratch& s_;
  HeadSelection* const out_;
  float* const missed_;  // nullptr: not asked for
  const uint32_t first_chunk_, chunks_;  // of the range
  const uint32_t unit_tokens_, units_per_chunk_;
  const uint32_t skipped_units_;  // of the first chunk, before first_key
  const UnitLayout coarse_layout_, fine_layout_;
  const size_t fine_bytes_;       // of a chunk
  ScoreQueries queries_;          // of the token and KV head at hand
  const float* attended_ = nullptr;
};

}  // namespace

void Select(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, const SelectOptions& options,
            SelectScratch* scratch, HeadSelection* heads, float* missed) {
  const KvGeometry& g = index.geometry();
  for (uint32_t h = 0; h < g.kv_heads; ++h) heads[h].clear();
  if (block.residual) {
    std::fill_n(missed, size_t{block.tokens} * g.query_heads, -std::numeric_limits<float>::infinity());
  }
  if (block.empty(g)) return;
  const bool sums = block.residual && EstimatesMass(index.method().form);
  LayerSelect(index, layer, block, options, scratch, heads, sums ? missed : nullptr).Run();
}

}  // namespace hga
