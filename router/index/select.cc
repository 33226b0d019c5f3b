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
// What is found more than that is done without next time; with less, the next look goes so much lower. A single token
// looks so much lower than where the last one was cut.
constexpr float kLower = 0.8f;
// Of so many, threads take their share.
constexpr uint32_t kManyCandidates = 1024;

template <typename T>
void Grow(std::vector<T>* v, size_t size) {
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
      : g_(index.geometry()),
        block_(block),
        scorer_(index, layer, block, options),
        s_(*scratch),
        out_(out),
        missed_(missed),
        helpers_(helpers),
        chunks_(scorer_.chunks()),
        unit_tokens_(scorer_.unit_tokens()),
        units_per_chunk_(scorer_.units_per_chunk()),
        together_(block.shared && block.top_p >= 1 && missed == nullptr && unit_tokens_ == 1 ? kTokensTogether : 1) {
    Grow(&s_.last_cuts, layer + 1);
    last_cut_ = &s_.last_cuts[layer];
    s_.heads.resize(g_.kv_heads);
    s_.scorers.resize(std::max<size_t>(s_.scorers.size(), helpers == nullptr ? 1 : helpers->threads()));
    for (Head& head : s_.heads) {
      head.taken.assign(chunks_, 0);
      // A unit may begin before the range.
      if (chunks_ > 0) head.taken[0] = ~RoutableMask(g_, scorer_.first_chunk(), block_.first_key);
      head.held = head.counted = 0;
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
    uint64_t& taken = s_.heads[kv_head].taken[chunk];
    mask &= ~taken;
    if (mask == 0) return;
    taken |= mask;
    // Made where it stays: copied from the stack, wider than it was written, it would wait for that.
    SelectedChunk& selected = out_[kv_head].emplace_back();
    selected.chunk = scorer_.first_chunk() + chunk;
    selected.first_token = token;
    selected.mask = mask;
  }

  // Keys that the KV head has taken.
  uint64_t Held(uint32_t kv_head) {
    Head& head = s_.heads[kv_head];
    const HeadSelection& taken = out_[kv_head];
    for (; head.counted < taken.size(); ++head.counted) head.held += absl::popcount(taken[head.counted].mask);
    return head.held;
  }

  // Units that `held` keys leave of `budget`.
  uint32_t Wanted(uint64_t budget, uint64_t held) const {
    return budget > held ? static_cast<uint32_t>((budget - held) / unit_tokens_) : 0;
  }
  // Of all KV heads together, if they share, else of the one that may have most.
  uint32_t MostWanted(uint32_t budget) {
    uint64_t held = 0;
    uint32_t most = 0;
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      held += Held(h);
      most = std::max(most, Wanted(budget, Held(h)));
    }
    return block_.shared ? Wanted(uint64_t{budget} * g_.kv_heads, held) : most;
  }

  // work(kv_head, thread)
  void ForEachHead(Helpers::Work work) {
    if (helpers_ != nullptr) return helpers_->Run(g_.kv_heads, work);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) work(h, 0);
  }

  void SelectTokens(uint32_t token, uint32_t count, const uint32_t* budgets) {
    const float guess = block_.tokens == 1 ? std::max(*last_cut_ * kLower, block_.least_share) : 0;
    const float least = least_candidate_ > 0 ? least_candidate_ : guess;
    const bool find = together_ > 1 && least > 0;
    if (find) FindCandidates(token, count, budgets, least);
    for (uint32_t i = 0; i < count; ++i) {
      if (!find || !TakeCandidates(token + i, i, budgets[i], least)) SelectToken(token + i, budgets[i]);
      if (missed_ != nullptr) SumUpMissed(token + i);
    }
  }

  // Fills `chunks` with those that the first level keeps of `rows` tokens from `token` on; then fine() scores what is
  // in them.
  template <typename Fine>
  void ScoreChunks(uint32_t token, uint32_t rows, uint32_t budget, uint32_t kv_head, float* coarse, HeadScratch* s,
                   std::vector<uint32_t>* chunks, const Fine& fine) const {
    StageClock clock;
    scorer_.Load(token, rows, kv_head, coarse, s);
    clock.Add(&s->times.prepare);
    scorer_.ChooseChunks(scorer_.kept_chunks(budget), missed_ != nullptr, s, chunks);
    clock.Add(&s->times.coarse);
    fine();
    clock.Add(&s->times.fine);
  }

  // --- One token by itself: the shares of all KV heads are kept until it has selected ---

  void SelectToken(uint32_t token, uint32_t budget) {
    const uint32_t wanted = MostWanted(budget);
    if (wanted == 0) {
      if (missed_ != nullptr) ScoreCoarseOfAll(token);
      return;
    }
    const size_t row = ScoreHeads(token, budget);
    float least = block_.top_p < 1 ? 0 : block_.least_share;  // top-p needs the sum of all
    if (block_.shared && block_.top_p >= 1) {
      const auto count = static_cast<uint32_t>(row * g_.kv_heads);
      least = std::max(least, GuessCut(s_.shares.data(), count, wanted, &s_.scorers[0].work));
    }
    KeepOfHeads(row, least);
    if (TakeCandidates(token, 0, budget, least)) return;
    KeepOfHeads(row, block_.least_share);
    TakeCandidates(token, 0, budget, block_.least_share);
  }

  // Returns the floats of a KV head in s_.shares; zeros lie behind its units.
  size_t ScoreHeads(uint32_t token, uint32_t budget) {
    const size_t row = scorer_.fine_stride(scorer_.kept_chunks(budget));
    Grow(&s_.shares, row * g_.kv_heads);
    if (missed_ != nullptr) Grow(&s_.coarse, coarse_of_head() * g_.kv_heads);
    Grow(&s_.found, g_.kv_heads);
    ForEachHead([&](uint32_t h, uint32_t thread) {
      float* const shares = s_.shares.data() + h * row;
      float* const coarse = missed_ == nullptr ? nullptr : s_.coarse.data() + h * coarse_of_head();
      std::vector<uint32_t>& chunks = s_.found[h].chunks;
      HeadScratch* const s = &s_.scorers[thread];
      ScoreChunks(token, 1, budget, h, coarse, s, &chunks, [&] { scorer_.ScoreFine(chunks, s, shares); });
      std::fill(shares + chunks.size() * units_per_chunk_, shares + row, 0.0f);
    });
    return row;
  }

  void KeepOfHeads(size_t row, float least) {
    ForEachHead([&](uint32_t h, uint32_t thread) {
      HeadScratch& s = s_.scorers[thread];
      StageClock clock;
      KeepCandidates(s_.heads[h], &s.masks, &s_.found[h], [&](uint32_t chunks, const uint64_t* skip, Found* found) {
        return KeepFrom(s_.shares.data() + h * row, chunks, units_per_chunk_, least, skip, found->shares.data(),
                        found->places.data());
      });
      clock.Add(&s.times.pick);
    });
  }

  // --- Some tokens of a block, whose later ones add little ---

  // s_.found: of tokens [token, token + count), the candidates whose share is at least `least`.
  void FindCandidates(uint32_t token, uint32_t count, const uint32_t* budgets, float least) {
    const uint32_t fewest = scorer_.kept_chunks(*std::min_element(budgets, budgets + count));
    const uint32_t at_once = fewest == chunks_ ? scorer_.rows_at_once() : 1;
    Grow(&s_.found, size_t{count} * g_.kv_heads);
    ForEachHead([&](uint32_t h, uint32_t thread) {
      HeadScratch& s = s_.scorers[thread];
      for (uint32_t first = 0; first < count; first += at_once) {
        const uint32_t rows = std::min(at_once, count - first);
        std::vector<uint32_t>& chunks = s_.found[first * g_.kv_heads + h].chunks;
        ScoreChunks(token + first, rows, budgets[first], h, nullptr, &s, &chunks,
                    [&] { scorer_.WeighFine(chunks, &s); });
        StageClock clock;
        for (uint32_t r = 0; r < rows; ++r) {
          Found& found = s_.found[(first + r) * g_.kv_heads + h];
          if (r > 0) found.chunks = chunks;
          KeepCandidates(s_.heads[h], &s.masks, &found, [&](uint32_t chunks, const uint64_t* skip, Found* f) {
            return scorer_.KeepFine(r, chunks, least, skip, s, f->shares.data(), f->places.data());
          });
        }
        clock.Add(&s.times.pick);
      }
    });
  }

  // --- Candidates: units that no earlier token took, whose shares may be among the best ---

  // keep(chunks, skip, found) fills found->shares and found->places, and returns how many.
  template <typename Keep>
  void KeepCandidates(const Head& head, std::vector<uint64_t>* masks, Found* found, const Keep& keep) const {
    const size_t chunks = found->chunks.size(), most = chunks * units_per_chunk_ + kSpareScores;
    Grow(&found->shares, most);
    Grow(&found->places, most);
    Grow(masks, chunks);
    // A unit is taken whole, or begins before the range.
    for (size_t i = 0; i < chunks; ++i) (*masks)[i] = scorer_.UnitsOf(head.taken[found->chunks[i]]);
    found->count = keep(static_cast<uint32_t>(chunks), masks->data(), found);
  }

  // Selects what the token, the i-th of those at hand, adds. False: some of it may be below `least`.
  bool TakeCandidates(uint32_t token, uint32_t i, uint32_t budget, float least) {
    const uint32_t wanted = MostWanted(budget);
    if (wanted == 0) return true;
    StageClock clock;
    GatherCandidates(i);
    const Found& all = s_.candidates;
    if (all.count < wanted && least > block_.least_share) return false;
    const TopCut cut = CutHeads(budget, wanted);
    const auto take = [&](uint32_t h, uint32_t) { TakeBest(token, i, h); };
    if (all.count > kManyCandidates) {
      ForEachHead(take);
    } else {
      for (uint32_t h = 0; h < g_.kv_heads; ++h) take(h, 0);
    }
    if (block_.tokens == 1) {
      *last_cut_ = cut.score;
    } else {
      LowerCandidates(wanted, cut.score, least);
    }
    clock.Add(&s_.times.pick);
    return true;
  }

  // For the tokens that follow: neither too few, which is slow, nor many more than are needed.
  void LowerCandidates(uint32_t wanted, float cut, float least) {
    const Found& all = s_.candidates;
    const uint32_t enough = kCandidatesPerKey * wanted + kFewestCandidates;
    least_candidate_ = least_candidate_ == 0 ? cut * kLower
                       : all.count > enough  ? CutTop(all.shares.data(), all.count, enough, &s_.scorers[0].work).score
                                             : least * kLower;
    least_candidate_ = std::max(least_candidate_, block_.least_share);
  }

  // Without what the tokens just before took.
  void GatherCandidates(uint32_t i) {
    Found& all = s_.candidates;
    all.count = 0;
    s_.ends.assign(1, 0);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      const Found& found = s_.found[i * g_.kv_heads + h];
      const std::vector<uint64_t>& taken = s_.heads[h].taken;
      Grow(&all.shares, all.count + found.count);
      Grow(&all.places, all.count + found.count);
      float* const shares = all.shares.data() + all.count;
      uint32_t* const places = all.places.data() + all.count;
      uint32_t count = found.count;
      if (i == 0) {
        std::copy_n(found.shares.begin(), count, shares);
        std::copy_n(found.places.begin(), count, places);
      } else {
        count = 0;
        for (uint32_t c = 0; c < found.count; ++c) {
          const uint32_t place = found.places[c];
          shares[count] = found.shares[c];
          places[count] = place;
          count += (taken[found.chunks[place / 64]] >> place % 64 & 1) == 0;  // some tokens together: units of one key
        }
      }
      all.count += count;
      s_.ends.push_back(all.count);
    }
  }

  // s_.cuts: what each KV head takes of its candidates. Returns the last, or that of all.
  TopCut CutHeads(uint32_t budget, uint32_t wanted) {
    s_.cuts.resize(g_.kv_heads);
    TopCut cut;
    if (block_.shared) cut = Cut(0, s_.candidates.count, g_.kv_heads, wanted);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      const uint32_t first = s_.ends[h], end = s_.ends[h + 1];
      if (!block_.shared) cut = Cut(first, end - first, 1, Wanted(budget, Held(h)));
      const float* const shares = s_.candidates.shares.data();
      const auto equal = static_cast<uint32_t>(std::count(shares + first, shares + end, cut.score));
      s_.cuts[h] = {cut.score, std::min(cut.ties, equal)};
      cut.ties -= s_.cuts[h].ties;
    }
    return cut;
  }

  // What to take of `count` candidates from `first` on, which belong to `heads` KV heads.
  TopCut Cut(uint32_t first, uint32_t count, uint32_t heads, uint32_t wanted) {
    const float* shares = s_.candidates.shares.data() + first;
    TopCut cut = CutTop(shares, count, wanted, &s_.scorers[0].work);
    // Each KV head's shares, with what is attended anyway, sum to 1.
    if (block_.top_p < 1) CutToShare(shares, count, heads * (1.0 - block_.top_p), &s_.best, &cut);
    return cut.score >= block_.least_share ? cut : TopCut{std::nextafter(block_.least_share, 0.0f), 0};
  }

  // Takes what the KV head's cut says of its candidates.
  void TakeBest(uint32_t token, uint32_t i, uint32_t kv_head) {
    const std::vector<uint32_t>& chunks = s_.found[i * g_.kv_heads + kv_head].chunks;
    const Found& all = s_.candidates;
    TopCut cut = s_.cuts[kv_head];
    uint32_t chunk = 0;  // at hand, of `chunks`
    uint64_t units = 0;
    const auto take = [&] {
      if (units != 0) Take(kv_head, chunks[chunk], scorer_.KeysOf(units), token);
      units = 0;
    };
    for (uint32_t c = s_.ends[kv_head]; c < s_.ends[kv_head + 1]; ++c) {
      const uint32_t place = all.places[c];
      if (place / 64 != chunk) take();
      chunk = place / 64;
      const bool ties = all.shares[c] == cut.score && cut.ties > 0;
      if (ties) --cut.ties;
      units |= uint64_t{ties || all.shares[c] > cut.score} << place % 64;
    }
    take();
  }

  // --- What is not selected ---

  // Floats of its coarse scores.
  size_t coarse_of_head() const { return g_.queries_per_kv_head() * scorer_.coarse_stride(); }

  // For a token that selects nothing.
  void ScoreCoarseOfAll(uint32_t token) {
    Grow(&s_.coarse, g_.kv_heads * coarse_of_head());
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      scorer_.Load(token, 1, h, s_.coarse.data() + h * coarse_of_head(), &s_.scorers[0]);
      scorer_.ScoreCoarse(false, s_.scorers[0], s_.scorers[0].coarse_scores);
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
  float* last_cut_ = nullptr;    // the layer's, of the scratch
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

bool Reproducible(const SelectOptions& options) {
  return options.pooling == Pooling::kMeanSoftmax && FusesProducts();
}

}  // namespace hga
