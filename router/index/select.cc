#include "router/index/select.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/numeric/bits.h"
#include "common/kv/sketch.h"
#include "router/index/score.h"
#include "router/index/stage_clock.h"
#include "router/index/top_units.h"

namespace hga {
namespace {

constexpr float kOutOfRange = -3e38f;
// That are fetched from memory while one is scored.
constexpr size_t kChunksAhead = 3;

// Rows of whole vectors, whatever the vector's width.
size_t Stride(size_t count) { return (count + 63) / 64 * 64; }

void Grow(std::vector<float>* v, size_t size) {
  if (v->size() < size) v->resize(size);
}

// Of rows that are scored side by side: not a power of two apart, where they would share few places of a cache.
size_t RowStride(size_t count) { return Stride(count) | 64; }

void SortChunks(HeadSelection* chunks) {
  const auto before = [](const SelectedChunk& a, const SelectedChunk& b) {
    return a.chunk != b.chunk ? a.chunk < b.chunk : a.first_token < b.first_token;
  };
  if (!std::is_sorted(chunks->begin(), chunks->end(), before)) std::sort(chunks->begin(), chunks->end(), before);
}

// One call of Select.
class LayerSelect {
 public:
  LayerSelect(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, const SelectOptions& options,
              SelectScratch* scratch, HeadSelection* out, float* missed, Helpers* helpers)
      : index_(index), g_(index.geometry()), layer_(layer), block_(block), options_(options), s_(*scratch), out_(out),
        missed_(missed), helpers_(helpers),
        first_chunk_(block.first_chunk(g_)), chunks_(block.route_upto - first_chunk_),
        unit_tokens_(index.method().unit_tokens(g_)), units_per_chunk_(g_.chunk_tokens / unit_tokens_),
        skipped_units_((block.first_key % g_.chunk_tokens) / unit_tokens_),
        coarse_layout_(index.method().coarse_layout(g_)), fine_layout_(index.method().fine_layout(g_)),
        fine_bytes_(index.method().fine_bytes(g_)) {
    s_.heads.resize(g_.kv_heads);
    s_.scorers.resize(std::max<size_t>(s_.scorers.size(), helpers == nullptr ? 1 : helpers->threads()));
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
    for (uint32_t h = 0; h < g_.kv_heads; ++h) SortChunks(&out_[h]);
  }

 private:
  using Head = SelectScratch::Head;
  using Scorer = SelectScratch::Scorer;

  void TakeEverything(uint32_t token) {
    for (uint32_t c = 0; c < chunks_; ++c) {
      const uint64_t mask = RoutableMask(g_, first_chunk_ + c, block_.first_key);
      for (uint32_t h = 0; h < g_.kv_heads; ++h) Take(h, c, mask, token);
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
    const size_t part = ScoreHeads(token, budget), units = part * g_.kv_heads;
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
    TopCut cut = CutTop(shares, static_cast<uint32_t>(count), wanted, &s_.scorers[0].work);
    // Each KV head's shares, with what is attended anyway, sum to 1.
    if (block_.top_p < 1) CutToShare(shares, count, heads * (1.0 - block_.top_p), &s_.best, &cut);
    if (!(cut.score >= block_.least_share)) cut = {std::nextafter(block_.least_share, 0.0f), 0};
    return cut;
  }

  void TakeBest(uint32_t token, uint32_t kv_head, TopCut* cut) {
    const Head& head = s_.heads[kv_head];
    std::vector<uint64_t>& masks = s_.scorers[0].masks;
    masks.resize(head.chunks.size());
    TakeTop(s_.shares.data() + head.first, static_cast<uint32_t>(head.chunks.size()), units_per_chunk_, cut,
            masks.data());
    for (size_t i = 0; i < head.chunks.size(); ++i) {
      if (masks[i] != 0) Take(kv_head, head.chunks[i], KeysOf(masks[i]), token);
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

  // Shares of the units of all KV heads' chunks that the first level keeps; returns how many each may have.
  size_t ScoreHeads(uint32_t token, uint32_t budget) {
    const uint64_t best = (uint64_t{budget} * options_.overprovision + g_.chunk_tokens - 1) / g_.chunk_tokens;
    const uint64_t kept = std::min<uint64_t>(std::max<uint64_t>(best, options_.scan_chunks), chunks_);
    const size_t part = FineStride(kept);
    Grow(&s_.coarse, Stride(chunks_) * g_.query_heads);
    Grow(&s_.shares, part * g_.kv_heads);
    const auto score = [&](uint32_t h, uint32_t thread) {
      s_.heads[h].first = part * h;
      ScoreHead(&s_.scorers[thread], token, h, kept);
      const Head& head = s_.heads[h];
      std::fill_n(s_.shares.begin() + head.first + head.units, part - head.units, 0.0f);
    };
    if (helpers_ != nullptr) {
      helpers_->Run(g_.kv_heads, score);
    } else {
      for (uint32_t h = 0; h < g_.kv_heads; ++h) score(h, 0);
    }
    return part;
  }

  // From s_.heads[kv_head].first on.
  void ScoreHead(Scorer* s, uint32_t token, uint32_t kv_head, uint64_t kept) {
    Head* head = &s_.heads[kv_head];
    StageClock clock;
    LoadQueries(s, token, kv_head);
    clock.Add(&s->times.prepare);
    ChooseChunks(s, kv_head, kept, &head->chunks);
    clock.Add(&s->times.coarse);
    ScoreFine(s, kv_head, head);
    DropTaken(*head);
    clock.Add(&s->times.fine);
  }

  void LoadQueries(Scorer* s, uint32_t token, uint32_t kv_head) const {
    const uint32_t heads = g_.queries_per_kv_head();
    const size_t count = size_t{heads} * g_.head_dim, first = size_t{token} * g_.query_heads + size_t{kv_head} * heads;
    s->queries_of_head.resize(count);
    s->weights.resize(count * coarse_layout_.vectors);
    ToFloats(block_.queries + first * g_.head_dim, count, 1.0f / std::sqrt(static_cast<float>(g_.head_dim)),
             s->queries_of_head.data());
    const SecondWeight second = SecondWeightOf(index_.method().form);
    WeighQueries(s->queries_of_head.data(), heads, coarse_layout_, second, s->weights.data());
    s->queries = {s->weights.data(), heads, g_.head_dim, coarse_layout_.vectors};
    if (index_.method().form == SummaryForm::kSketch) MakeSketchTables(s->queries, &s->tables);
    s->attended = block_.attended != nullptr ? block_.attended + first : nullptr;
  }

  // Fills `chunks`, ascending, with the best `wanted` of the range; s_.coarse where the second level needs it.
  void ChooseChunks(Scorer* s, uint32_t kv_head, uint64_t wanted, std::vector<uint32_t>* chunks) {
    chunks->clear();
    const bool all = wanted >= chunks_;
    if (!all || missed_ != nullptr || index_.method().form == SummaryForm::kSketch) ScoreCoarse(*s, kv_head);
    if (all) {
      for (uint32_t chunk = 0; chunk < chunks_; ++chunk) chunks->push_back(chunk);
      return;
    }
    const size_t stride = Stride(chunks_);
    // The softmax destroys its scores; these are needed again.
    Grow(&s->scores, stride * s->queries.heads);
    Grow(&s->pooled, stride);
    std::copy_n(CoarseOf(kv_head), stride * s->queries.heads, s->scores.data());
    PoolHeads(options_.pooling, s->scores.data(), s->queries.heads, chunks_, stride, AttendedPerChunk(s),
              s->pooled.data());
    TopCut cut = CutTop(s->pooled.data(), chunks_, static_cast<uint32_t>(wanted), &s->work);
    // The row is padded to whole blocks; what lies behind the last chunk is not one.
    std::fill(s->pooled.begin() + chunks_, s->pooled.begin() + stride, 0.0f);
    s->masks.resize(stride / 64);
    TakeTop(s->pooled.data(), static_cast<uint32_t>(stride / 64), 64, &cut, s->masks.data());
    for (uint32_t b = 0; b < s->masks.size(); ++b) {
      for (uint64_t kept = s->masks[b]; kept != 0; kept &= kept - 1) {
        chunks->push_back(b * 64 + absl::countr_zero(kept));
      }
    }
  }

  // A chunk's score stands for each of its tokens.
  const float* AttendedPerChunk(Scorer* s) const {
    if (s->attended == nullptr) return nullptr;
    s->per_chunk.resize(s->queries.heads);
    const float per_chunk = std::log(static_cast<float>(g_.chunk_tokens));
    for (uint32_t h = 0; h < s->queries.heads; ++h) s->per_chunk[h] = s->attended[h] - per_chunk;
    return s->per_chunk.data();
  }

  float* CoarseOf(uint32_t kv_head) { return s_.coarse.data() + kv_head * g_.queries_per_kv_head() * Stride(chunks_); }

  void ScoreCoarse(const Scorer& s, uint32_t kv_head) {
    const size_t stride = Stride(chunks_);
    for (uint32_t i = 0; i < chunks_;) {
      const uint32_t chunk = first_chunk_ + i;
      const uint32_t count = std::min(SequenceIndex::SegmentEnd(chunk), block_.route_upto) - chunk;
      const uint8_t* parts = index_.Coarse(layer_, kv_head, chunk);
      ScoreUnits(s.queries, coarse_layout_, parts, count, CoarseOf(kv_head) + i, stride);
      i += count;
    }
  }

  // For a token that selects nothing.
  void ScoreCoarseOfAll(uint32_t token) {
    Grow(&s_.coarse, Stride(chunks_) * g_.query_heads);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      LoadQueries(&s_.scorers[0], token, h);
      ScoreCoarse(s_.scorers[0], h);
    }
  }

  // Of the keys that are left of each chunk, by the chunk's coarse score.
  void SumUpMissed(uint32_t token) {
    const size_t stride = Stride(chunks_);
    const uint32_t query_heads = g_.queries_per_kv_head();
    Grow(&s_.left, stride);
    const uint64_t all = ~uint64_t{0} >> (64 - g_.chunk_tokens);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      const std::vector<uint64_t>& taken = s_.heads[h].taken;
      for (uint32_t c = 0; c < chunks_; ++c) s_.left[c] = static_cast<float>(absl::popcount(all & ~taken[c]));
      std::fill(s_.left.begin() + chunks_, s_.left.begin() + stride, 0.0f);
      for (uint32_t q = 0; q < query_heads; ++q) {
        missed_[size_t{token} * g_.query_heads + h * query_heads + q] =
            LogSumExp(CoarseOf(h) + q * stride, s_.left.data(), chunks_);
      }
    }
  }

  // Of the scores of so many chunks' units. Sketches are scored 64 tokens at a time, in shorter chunks, too.
  size_t FineStride(size_t chunks) const {
    return RowStride(chunks * units_per_chunk_ + kSketchTokens - g_.chunk_tokens);
  }

  // Some query heads at a time: the scores of more would not stay in the cache until they are pooled.
  void ScoreFine(Scorer* s, uint32_t kv_head, Head* head) {
    const uint32_t heads = s->queries.heads;
    const uint32_t at_once = options_.pooling == Pooling::kSumLogits ? heads : std::min(heads, kPooledAtOnce);
    const size_t stride = FineStride(head->chunks.size());
    Grow(&s->scores, stride * at_once);
    float* shares = s_.shares.data() + head->first;
    head->units = static_cast<uint32_t>(head->chunks.size() * units_per_chunk_);
    for (uint32_t first = 0; first < heads; first += at_once) {
      const uint32_t some = std::min(at_once, heads - first);
      ScoreUnitsOf(s, kv_head, head->chunks, first, some, stride);
      const float* attended = s->attended == nullptr ? nullptr : s->attended + first;
      PoolSomeHeads(options_.pooling, s->scores.data(), first, some, heads, head->units, stride, attended, shares);
    }
  }

  // s->scores[h * stride + i]: of unit i of the chunks, for query heads [first, first + some).
  void ScoreUnitsOf(Scorer* s, uint32_t kv_head, const std::vector<uint32_t>& chunks, uint32_t first, uint32_t some,
                    size_t stride) {
    size_t ahead = 0;
    for (size_t i = 0; i < chunks.size();) {
      // Chunks that follow each other in one segment are scored together.
      const uint32_t begin = chunks[i], end = SequenceIndex::SegmentEnd(first_chunk_ + begin) - first_chunk_;
      uint32_t count = 1;
      while (i + count < chunks.size() && chunks[i + count] == begin + count && begin + count < end) ++count;
      for (; ahead < std::min(chunks.size(), i + count + kChunksAhead); ++ahead) Prefetch(kv_head, chunks[ahead]);
      ScoreChunks(*s, kv_head, begin, count, first, some, s->scores.data() + i * units_per_chunk_, stride);
      i += count;
    }
    if (skipped_units_ == 0 || chunks.empty() || chunks[0] != 0) return;
    for (uint32_t h = 0; h < some; ++h) std::fill_n(s->scores.begin() + h * stride, skipped_units_, kOutOfRange);
  }

  void Prefetch(uint32_t kv_head, uint32_t chunk) {
    const uint8_t* parts = index_.Fine(layer_, kv_head, first_chunk_ + chunk);
    for (size_t line = 0; line < fine_bytes_; line += 64) __builtin_prefetch(parts + line);
  }

  void ScoreChunks(const Scorer& s, uint32_t kv_head, uint32_t begin, uint32_t count, uint32_t first, uint32_t some,
                   float* scores, size_t stride) {
    const uint32_t chunk = first_chunk_ + begin;
    const uint8_t* parts = index_.Fine(layer_, kv_head, chunk);
    if (index_.method().form == SummaryForm::kSketch) {
      const size_t base_stride = Stride(chunks_);
      ScoreTokens(s.tables, g_.head_dim, first, some, index_.Coarse(layer_, kv_head, chunk), parts, count,
                  g_.chunk_tokens, CoarseOf(kv_head) + first * base_stride + begin, base_stride, scores, stride);
    } else {
      ScoreQueries queries = s.queries;
      queries.data += size_t{first} * queries.vectors * queries.head_dim;
      queries.heads = some;
      ScoreUnits(queries, fine_layout_, parts, count * units_per_chunk_, scores, stride);
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
  Helpers* const helpers_;  // nullptr: none
  const uint32_t first_chunk_, chunks_;  // of the range
  const uint32_t unit_tokens_, units_per_chunk_;
  const uint32_t skipped_units_;  // of the first chunk, before first_key
  const UnitLayout coarse_layout_, fine_layout_;
  const size_t fine_bytes_;       // of a chunk
};

}  // namespace

void Select(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, const SelectOptions& options,
            SelectScratch* scratch, HeadSelection* heads, float* missed, Helpers* helpers) {
  const KvGeometry& g = index.geometry();
  for (uint32_t h = 0; h < g.kv_heads; ++h) heads[h].clear();
  if (block.residual) {
    std::fill_n(missed, size_t{block.tokens} * g.query_heads, -std::numeric_limits<float>::infinity());
  }
  if (block.empty(g)) return;
  const bool sums = block.residual && EstimatesMass(index.method().form);
  LayerSelect(index, layer, block, options, scratch, heads, sums ? missed : nullptr, helpers).Run();
  for (SelectScratch::Scorer& s : scratch->scorers) scratch->times += std::exchange(s.times, SelectTimes());
}

uint32_t ReproducibleLanes(const SelectOptions& options) {
  return options.pooling == Pooling::kMeanSoftmax ? FusedSumLanes() : 0;
}

}  // namespace hga
