#include "router/index/select.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/numeric/bits.h"
#include "router/index/score.h"
#include "router/index/stage_clock.h"
#include "router/index/top_units.h"

namespace hga {
namespace {

// Tokens of a block whose candidates are looked for together: the summaries of a KV head stay in the second cache.
constexpr uint32_t kTokensTogether = 8;
// Candidates of a token for each key it takes: enough that another token's share of them is likely to be enough, too.
constexpr uint32_t kCandidatesPerKey = 8, kFewestCandidates = 64;
// What is found more than that is done without next time; with less, the next look goes so much lower.
constexpr float kLower = 0.8f;

void Grow(std::vector<float>* v, size_t size) {
  if (v->size() < size) v->resize(size);
}

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
      : g_(index.geometry()), block_(block), scorer_(index, layer, block, options), s_(*scratch), out_(out), missed_(missed),
        helpers_(helpers), chunks_(scorer_.chunks()), unit_tokens_(scorer_.unit_tokens()),
        units_per_chunk_(scorer_.units_per_chunk()),
        together_(block.shared && block.top_p >= 1 && missed == nullptr && unit_tokens_ == 1 ? kTokensTogether : 1) {
    s_.heads.resize(g_.kv_heads);
    s_.scorers.resize(std::max<size_t>(s_.scorers.size(), helpers == nullptr ? 1 : helpers->threads()));
    for (Head& head : s_.heads) {
      head.taken.assign(chunks_, 0);
      // A unit may begin before the range.
      if (chunks_ > 0) head.taken[0] = ~RoutableMask(g_, scorer_.first_chunk(), block_.first_key);
      head.held = 0;
    }
  }

  void Run() {
    for (uint32_t t = 0; t < block_.tokens;) {
      uint32_t budgets[kTokensTogether], count = 0;
      bool everything = false;
      const uint32_t most = least_candidate_ > 0 ? std::min(together_, block_.tokens - t) : 1;
      while (!everything && count < most) {
        everything = !ReadBudget(t + count, &budgets[count]);
        if (!everything) ++count;
      }
      SelectTokens(t, count, budgets);
      t += count;
      if (everything) {
        TakeEverything(t);
        break;
      }
    }
    for (uint32_t h = 0; h < g_.kv_heads; ++h) SortChunks(&out_[h]);
  }

 private:
  using Head = SelectScratch::Head;
  using Found = SelectScratch::Found;

  // Read once: the request may lie in memory that the peer can still write. False: all of the range.
  bool ReadBudget(uint32_t token, uint32_t* budget) const {
    const uint32_t wanted = block_.budget_keys[token];
    *budget = std::min(wanted, block_.keys(g_));
    const bool all_of_it = block_.least_share <= 0 && block_.top_p >= 1;
    return wanted != kEverything && !(all_of_it && wanted >= block_.keys(g_));
  }

  void TakeEverything(uint32_t token) {
    for (uint32_t c = 0; c < chunks_; ++c) {
      const uint64_t mask = RoutableMask(g_, scorer_.first_chunk() + c, block_.first_key);
      for (uint32_t h = 0; h < g_.kv_heads; ++h) Take(h, c, mask, token);
    }
  }

  void Take(uint32_t kv_head, uint32_t chunk, uint64_t mask, uint32_t token) {
    Head& head = s_.heads[kv_head];
    mask &= ~head.taken[chunk];
    if (mask == 0) return;
    head.taken[chunk] |= mask;
    head.held += absl::popcount(mask);
    out_[kv_head].push_back({scorer_.first_chunk() + chunk, token, mask});
  }

  // Units that `held` keys leave of `budget`.
  uint32_t Wanted(uint64_t budget, uint64_t held) const {
    return budget > held ? static_cast<uint32_t>((budget - held) / unit_tokens_) : 0;
  }
  // Of all KV heads together.
  uint32_t WantedOfAll(uint32_t budget) const {
    uint64_t held = 0;
    for (const Head& head : s_.heads) held += head.held;
    return Wanted(uint64_t{budget} * g_.kv_heads, held);
  }

  // work(kv_head, thread)
  void ForEachHead(Helpers::Work work) {
    if (helpers_ != nullptr) return helpers_->Run(g_.kv_heads, work);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) work(h, 0);
  }

  void SelectTokens(uint32_t token, uint32_t count, const uint32_t* budgets) {
    const float least = least_candidate_;
    if (count > 1) FindCandidates(token, count, budgets, least);
    for (uint32_t i = 0; i < count; ++i) {
      if (count == 1 || !TakeCandidates(token + i, i, WantedOfAll(budgets[i]), least)) SelectToken(token + i, budgets[i]);
      if (missed_ != nullptr) SumUpMissed(token + i);
    }
  }

  // --- One token, all shares ---

  // Selects what a token adds; budget: keys per KV head.
  void SelectToken(uint32_t token, uint32_t budget) {
    const uint32_t shared = WantedOfAll(budget);
    uint32_t most = 0;
    for (const Head& head : s_.heads) most = std::max(most, Wanted(budget, head.held));
    if ((block_.shared ? shared : most) == 0) {
      if (missed_ != nullptr) ScoreCoarseOfAll(token);
      return;
    }
    const size_t part = ScoreHeads(token, budget), units = part * g_.kv_heads;
    StageClock clock;
    TopCut cut;
    if (block_.shared) cut = Cut(0, units, g_.kv_heads, shared);
    least_candidate_ = std::max(cut.score / 2, block_.least_share);
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
    return NotBelowTheLeast(cut);
  }

  TopCut NotBelowTheLeast(const TopCut& cut) const {
    return cut.score >= block_.least_share ? cut : TopCut{std::nextafter(block_.least_share, 0.0f), 0};
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
    const uint32_t kept = scorer_.kept_chunks(budget), query_heads = g_.queries_per_kv_head();
    const size_t part = scorer_.fine_stride(kept);
    Grow(&s_.coarse, scorer_.coarse_stride() * g_.query_heads);
    Grow(&s_.shares, part * g_.kv_heads);
    ForEachHead([&](uint32_t h, uint32_t thread) {
      Head& head = s_.heads[h];
      HeadScratch& s = s_.scorers[thread];
      head.first = part * h;
      StageClock clock;
      scorer_.Load(token, 1, h, s_.coarse.data() + h * query_heads * scorer_.coarse_stride(), &s);
      clock.Add(&s.times.prepare);
      scorer_.ChooseChunks(kept, missed_ != nullptr, &s, &head.chunks);
      clock.Add(&s.times.coarse);
      head.units = static_cast<uint32_t>(head.chunks.size() * units_per_chunk_);
      scorer_.ScoreFine(head.chunks, &s, s_.shares.data() + head.first, part);
      DropTaken(head);
      std::fill_n(s_.shares.begin() + head.first + head.units, part - head.units, 0.0f);
      clock.Add(&s.times.fine);
    });
    return part;
  }

  // What earlier tokens took is not chosen again.
  void DropTaken(const Head& head) {
    for (size_t i = 0; i < head.chunks.size(); ++i) {
      for (uint64_t taken = head.taken[head.chunks[i]]; taken != 0;) {
        // A unit is taken whole, or begins before the range.
        const uint32_t unit = absl::countr_zero(taken) / unit_tokens_, end = (unit + 1) * unit_tokens_;
        if (unit >= units_per_chunk_) break;
        if (taken >> (end - 1) & 1) s_.shares[head.first + i * units_per_chunk_ + unit] = 0;
        taken = end < 64 ? taken >> end << end : 0;
      }
    }
  }

  // --- Some tokens of a block, whose later ones add little: only shares that may be among their best are kept ---

  // s_.found: of tokens [token, token + count), units that no earlier token took and whose share is at least `least`.
  void FindCandidates(uint32_t token, uint32_t count, const uint32_t* budgets, float least) {
    const auto range = std::minmax_element(budgets, budgets + count);
    const uint32_t at_once = scorer_.kept_chunks(*range.first) == chunks_ ? scorer_.rows_at_once() : 1;
    const size_t row = scorer_.fine_stride(scorer_.kept_chunks(*range.second));
    Grow(&s_.shares, s_.scorers.size() * at_once * row);
    if (s_.found.size() < size_t{g_.kv_heads} * kTokensTogether) s_.found.resize(g_.kv_heads * kTokensTogether);
    ForEachHead([&](uint32_t h, uint32_t thread) {
      HeadScratch& s = s_.scorers[thread];
      std::vector<uint32_t>& chunks = s_.heads[h].chunks;
      float* shares = s_.shares.data() + thread * at_once * row;
      for (uint32_t first = 0; first < count; first += at_once) {
        const uint32_t rows = std::min(at_once, count - first);
        StageClock clock;
        scorer_.Load(token + first, rows, h, nullptr, &s);
        clock.Add(&s.times.prepare);
        scorer_.ChooseChunks(scorer_.kept_chunks(budgets[first]), false, &s, &chunks);
        clock.Add(&s.times.coarse);
        scorer_.ScoreFine(chunks, &s, shares, row);
        clock.Add(&s.times.fine);
        for (uint32_t r = 0; r < rows; ++r) {
          KeepCandidates(s_.heads[h], shares + r * row, least, &s.masks, &s_.found[h * kTokensTogether + first + r]);
        }
        clock.Add(&s.times.pick);
      }
    });
  }

  void KeepCandidates(const Head& head, const float* shares, float least, std::vector<uint64_t>* masks, Found* found) const {
    found->shares.clear();
    found->units.clear();
    masks->resize(head.chunks.size());
    TopCut all{std::nextafter(least, 0.0f), 0};
    TakeTop(shares, static_cast<uint32_t>(head.chunks.size()), units_per_chunk_, &all, masks->data());
    for (size_t i = 0; i < head.chunks.size(); ++i) {
      const uint32_t chunk = head.chunks[i];
      for (uint64_t units = (*masks)[i] & ~head.taken[chunk]; units != 0; units &= units - 1) {
        const uint32_t unit = absl::countr_zero(units);
        found->shares.push_back(shares[i * units_per_chunk_ + unit]);
        found->units.push_back(chunk * units_per_chunk_ + unit);
      }
    }
  }

  // Selects what the token, the i-th of those at hand, adds. False: some of it may be below `least`.
  bool TakeCandidates(uint32_t token, uint32_t i, uint32_t wanted, float least) {
    if (wanted == 0) return true;
    StageClock clock;
    GatherCandidates(i);
    const Found& all = s_.candidates;
    const auto count = static_cast<uint32_t>(all.shares.size());
    if (count < wanted && least > block_.least_share) return false;
    std::vector<int32_t>& work = s_.scorers[0].work;
    TopCut cut = NotBelowTheLeast(CutTop(all.shares.data(), count, wanted, &work));
    for (uint32_t h = 0, c = 0; h < g_.kv_heads; ++h) {
      while (c < s_.ends[h]) {
        const uint32_t chunk = all.units[c] / units_per_chunk_;
        uint64_t mask = 0;
        for (; c < s_.ends[h] && all.units[c] / units_per_chunk_ == chunk; ++c) {
          const bool ties = all.shares[c] == cut.score && cut.ties > 0;
          if (ties) --cut.ties;
          if (ties || all.shares[c] > cut.score) mask |= uint64_t{1} << all.units[c] % units_per_chunk_;
        }
        Take(h, chunk, mask, token);
      }
    }
    // For the tokens that follow: neither too few, which is slow, nor many more than are needed.
    const uint32_t enough = kCandidatesPerKey * wanted + kFewestCandidates;
    least_candidate_ = count > enough ? CutTop(all.shares.data(), count, enough, &work).score : least * kLower;
    least_candidate_ = std::max(least_candidate_, block_.least_share);
    clock.Add(&s_.times.pick);
    return true;
  }

  // Without what the tokens just before took.
  void GatherCandidates(uint32_t i) {
    Found& all = s_.candidates;
    all.shares.clear();
    all.units.clear();
    s_.ends.clear();
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      const Found& found = s_.found[h * kTokensTogether + i];
      const std::vector<uint64_t>& taken = s_.heads[h].taken;
      for (size_t c = 0; c < found.units.size(); ++c) {
        const uint32_t unit = found.units[c];
        if (taken[unit / units_per_chunk_] >> unit % units_per_chunk_ & 1) continue;
        all.shares.push_back(found.shares[c]);
        all.units.push_back(unit);
      }
      s_.ends.push_back(static_cast<uint32_t>(all.units.size()));
    }
  }

  // --- What is not selected ---

  // For a token that selects nothing.
  void ScoreCoarseOfAll(uint32_t token) {
    const size_t of_head = g_.queries_per_kv_head() * scorer_.coarse_stride();
    Grow(&s_.coarse, g_.kv_heads * of_head);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      scorer_.Load(token, 1, h, s_.coarse.data() + h * of_head, &s_.scorers[0]);
      scorer_.ScoreCoarse(&s_.scorers[0]);
    }
  }

  // Of the keys that are left of each chunk, by the chunk's coarse score.
  void SumUpMissed(uint32_t token) {
    const size_t stride = scorer_.coarse_stride();
    Grow(&s_.left, stride);
    const uint64_t all = ~uint64_t{0} >> (64 - g_.chunk_tokens);
    for (uint32_t q = 0; q < g_.query_heads; ++q) {
      if (q % g_.queries_per_kv_head() == 0) {
        const std::vector<uint64_t>& taken = s_.heads[q / g_.queries_per_kv_head()].taken;
        for (uint32_t c = 0; c < chunks_; ++c) s_.left[c] = static_cast<float>(absl::popcount(all & ~taken[c]));
        std::fill(s_.left.begin() + chunks_, s_.left.begin() + stride, 0.0f);
      }
      missed_[size_t{token} * g_.query_heads + q] = LogSumExp(s_.coarse.data() + q * stride, s_.left.data(), chunks_);
    }
  }

  const KvGeometry& g_;
  const RouteBlock& block_;
  const HeadScorer scorer_;
  SelectScratch& s_;
  HeadSelection* const out_;
  float* const missed_;  // nullptr: not asked for
  Helpers* const helpers_;  // nullptr: none
  const uint32_t chunks_;  // of the range
  const uint32_t unit_tokens_, units_per_chunk_;
  const uint32_t together_;      // tokens at a time
  float least_candidate_ = 0;    // share; 0: not known yet
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
  for (HeadScratch& s : scratch->scorers) scratch->times += std::exchange(s.times, SelectTimes());
}

uint32_t ReproducibleLanes(const SelectOptions& options) {
  return options.pooling == Pooling::kMeanSoftmax ? FusedSumLanes() : 0;
}

}  // namespace hga
