#include "router/index/select.h"

#include <algorithm>
#include <cmath>

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

// One call of Select for one KV head.
class HeadSelect {
 public:
  HeadSelect(const SequenceIndex& index, uint32_t layer, uint32_t kv_head, const RouteBlock& block,
             const SelectOptions& options, SelectScratch* scratch)
      : index_(index), g_(index.geometry()), layer_(layer), kv_head_(kv_head), block_(block), options_(options),
        s_(*scratch), first_chunk_(block.first_chunk(g_)), chunks_(block.route_upto - first_chunk_),
        unit_tokens_(index.method().unit_tokens(g_)), units_per_chunk_(g_.chunk_tokens / unit_tokens_),
        skipped_units_((block.first_key % g_.chunk_tokens) / unit_tokens_),
        coarse_layout_(index.method().coarse_layout(g_)), fine_layout_(index.method().fine_layout(g_)),
        fine_bytes_(index.method().fine_bytes(g_)) {
    s_.taken.assign(chunks_, 0);
    // A unit may begin before the range.
    if (chunks_ > 0) s_.taken[0] = ~RoutableMask(g_, first_chunk_, block.first_key);
  }

  void Run(HeadSelection* out) {
    uint32_t held = 0;
    for (uint32_t t = 0; t < block_.tokens; ++t) {
      // Read once: the request may lie in memory that the peer can still write.
      const uint32_t budget = block_.budget_keys[t];
      if (budget >= block_.keys(g_)) {
        for (uint32_t chunk = 0; chunk < chunks_; ++chunk) {
          Take(chunk, RoutableMask(g_, first_chunk_ + chunk, block_.first_key), t, out);
        }
        break;
      }
      if (budget >= held + unit_tokens_) held += SelectToken(t, (budget - held) / unit_tokens_, out);
    }
    std::sort(out->begin(), out->end(), [](const SelectedChunk& a, const SelectedChunk& b) {
      return a.chunk != b.chunk ? a.chunk < b.chunk : a.first_token < b.first_token;
    });
  }

 private:
  // Returns how many keys are new.
  uint32_t Take(uint32_t chunk, uint64_t mask, uint32_t token, HeadSelection* out) {
    mask &= ~s_.taken[chunk];
    if (mask == 0) return 0;
    s_.taken[chunk] |= mask;
    out->push_back({first_chunk_ + chunk, token, mask});
    return absl::popcount(mask);
  }

  // Selects up to `wanted` more units for a token; returns how many keys are new.
  uint32_t SelectToken(uint32_t token, uint32_t wanted, HeadSelection* out) {
    StageClock clock;
    LoadQueries(token);
    clock.Add(&s_.times.prepare);
    const uint64_t best = (uint64_t{wanted} * unit_tokens_ * options_.overprovision + g_.chunk_tokens - 1) / g_.chunk_tokens;
    ChooseChunks(std::max<uint64_t>(best, options_.scan_chunks));
    clock.Add(&s_.times.coarse);
    ScoreFine();
    clock.Add(&s_.times.fine);
    const auto count = static_cast<uint32_t>(s_.chunks.size() * units_per_chunk_);
    DropTaken();
    TopCut cut = CutTop(s_.pooled.data(), count, wanted, &s_.work);
    uint32_t keys = 0;
    s_.masks.resize(s_.chunks.size());
    TakeTop(s_.pooled.data(), static_cast<uint32_t>(s_.chunks.size()), units_per_chunk_, &cut, s_.masks.data());
    for (size_t i = 0; i < s_.chunks.size(); ++i) {
      if (s_.masks[i] != 0) keys += Take(s_.chunks[i], KeysOf(s_.masks[i]), token, out);
    }
    clock.Add(&s_.times.pick);
    return keys;
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

  void LoadQueries(uint32_t token) {
    const uint32_t heads = g_.queries_per_kv_head();
    const size_t count = size_t{heads} * g_.head_dim;
    const bf16* in = block_.queries + (size_t{token} * g_.query_heads + size_t{kv_head_} * heads) * g_.head_dim;
    s_.queries.resize(count);
    s_.weights.resize(count * coarse_layout_.vectors);
    ToFloats(in, count, 1.0f / std::sqrt(static_cast<float>(g_.head_dim)), s_.queries.data());
    WeighQueries(s_.queries.data(), heads, coarse_layout_, SecondWeightOf(index_.method().form), s_.weights.data());
    queries_ = {s_.weights.data(), heads, g_.head_dim, coarse_layout_.vectors};
    if (index_.method().form == SummaryForm::kSketch) MakeSketchTables(queries_, &s_.tables);
  }

  // Fills s_.chunks, ascending, with the best `wanted` of the range; s_.coarse where the second level needs it.
  void ChooseChunks(uint64_t wanted) {
    s_.chunks.clear();
    const bool all = wanted >= chunks_;
    if (!all || index_.method().form == SummaryForm::kSketch) ScoreCoarse();
    if (all) {
      for (uint32_t chunk = 0; chunk < chunks_; ++chunk) s_.chunks.push_back(chunk);
      return;
    }
    const size_t stride = Stride(chunks_);
    // The softmax destroys its scores; these are needed again.
    Grow(&s_.scores, stride * queries_.heads);
    Grow(&s_.pooled, stride);
    std::copy_n(s_.coarse.data(), stride * queries_.heads, s_.scores.data());
    PoolHeads(options_.pooling, s_.scores.data(), queries_.heads, chunks_, stride, nullptr,
              s_.pooled.data());
    TopCut cut = CutTop(s_.pooled.data(), chunks_, static_cast<uint32_t>(wanted), &s_.work);
    // The row is padded to whole blocks; what lies behind the last chunk is not one.
    std::fill(s_.pooled.begin() + chunks_, s_.pooled.begin() + stride, 0.0f);
    s_.masks.resize(stride / 64);
    TakeTop(s_.pooled.data(), static_cast<uint32_t>(stride / 64), 64, &cut, s_.masks.data());
    for (uint32_t b = 0; b < s_.masks.size(); ++b) {
      for (uint64_t kept = s_.masks[b]; kept != 0; kept &= kept - 1) {
        s_.chunks.push_back(b * 64 + absl::countr_zero(kept));
      }
    }
  }

  void ScoreCoarse() {
    const size_t stride = Stride(chunks_);
    Grow(&s_.coarse, stride * queries_.heads);
    for (uint32_t i = 0; i < chunks_;) {
      const uint32_t chunk = first_chunk_ + i;
      const uint32_t count = std::min(SequenceIndex::SegmentEnd(chunk), block_.route_upto) - chunk;
      ScoreUnits(queries_, coarse_layout_, index_.Coarse(layer_, kv_head_, chunk), count, s_.coarse.data() + i,
                 stride);
      i += count;
    }
  }

  // Pooled softmax over the units of s_.chunks.
  void ScoreFine() {
    const size_t count = s_.chunks.size() * units_per_chunk_;
    // Sketches are scored 64 tokens at a time, in shorter chunks, too.
    const size_t stride = Stride(count + kSketchTokens - g_.chunk_tokens);
    Grow(&s_.scores, stride * queries_.heads);
    Grow(&s_.pooled, stride);
    for (size_t i = 0; i < s_.chunks.size();) {
      // Chunks that follow each other in one segment are scored together.
      const uint32_t first = s_.chunks[i], end = SequenceIndex::SegmentEnd(first_chunk_ + first) - first_chunk_;
      uint32_t together = 1;
      while (i + together < s_.chunks.size() && s_.chunks[i + together] == first + together && first + together < end) {
        ++together;
      }
      if (i + together < s_.chunks.size()) Prefetch(s_.chunks[i + together]);
      ScoreChunks(first, together, s_.scores.data() + i * units_per_chunk_, stride);
      i += together;
    }
    if (skipped_units_ > 0 && !s_.chunks.empty() && s_.chunks[0] == 0) {
      for (uint32_t h = 0; h < queries_.heads; ++h) {
        std::fill_n(s_.scores.begin() + h * stride, skipped_units_, kOutOfRange);
      }
    }
    PoolHeads(options_.pooling, s_.scores.data(), queries_.heads, static_cast<uint32_t>(count), stride, nullptr,
              s_.pooled.data());
  }

  // What lies elsewhere than the chunk before it is there when it is scored.
  void Prefetch(uint32_t chunk) {
    const uint8_t* parts = index_.Fine(layer_, kv_head_, first_chunk_ + chunk);
    for (size_t line = 0; line < fine_bytes_; line += 64) __builtin_prefetch(parts + line);
  }

  void ScoreChunks(uint32_t first, uint32_t count, float* scores, size_t stride) {
    const uint32_t chunk = first_chunk_ + first;
    const uint8_t* parts = index_.Fine(layer_, kv_head_, chunk);
    if (index_.method().form == SummaryForm::kSketch) {
      ScoreTokens(queries_, s_.tables, index_.Coarse(layer_, kv_head_, chunk), parts, count, g_.chunk_tokens,
                  s_.coarse.data() + first, Stride(chunks_), scores, stride);
    } else {
      ScoreUnits(queries_, fine_layout_, parts, count * units_per_chunk_, scores, stride);
    }
  }

  // What earlier tokens took is not chosen again.
  void DropTaken() {
    for (size_t i = 0; i < s_.chunks.size(); ++i) {
      const uint64_t taken = s_.taken[s_.chunks[i]];
      for (uint32_t u = 0; taken != 0 && u < units_per_chunk_; ++u) {
        if (taken >> ((u + 1) * unit_tokens_ - 1) & 1) s_.pooled[i * units_per_chunk_ + u] = 0;
      }
    }
  }

  const SequenceIndex& index_;
  const KvGeometry& g_;
  const uint32_t layer_, kv_head_;
  const RouteBlock& block_;
  const SelectOptions& options_;
  SelectScratch& s_;
  const uint32_t first_chunk_, chunks_;  // of the range
  const uint32_t unit_tokens_, units_per_chunk_;
  const uint32_t skipped_units_;  // of the first chunk, before first_key
  const UnitLayout coarse_layout_, fine_layout_;
  const size_t fine_bytes_;  // of a chunk
  ScoreQueries queries_;
};

}  // namespace

void Select(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, const SelectOptions& options,
            SelectScratch* scratch, HeadSelection* heads) {
  for (uint32_t kv_head = 0; kv_head < index.geometry().kv_heads; ++kv_head) {
    heads[kv_head].clear();
    if (block.empty(index.geometry())) continue;
    HeadSelect(index, layer, kv_head, block, options, scratch).Run(&heads[kv_head]);
  }
}

}  // namespace hga
