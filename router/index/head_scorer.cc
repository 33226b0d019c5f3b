#include "router/index/head_scorer.h"

#include <algorithm>
#include <cmath>

#include "absl/numeric/bits.h"
#include "common/kv/sketch.h"
#include "router/index/top_units.h"

namespace hga {
namespace {

constexpr float kOutOfRange = -3e38f;

// Rows of whole vectors, whatever the vector's width.
size_t Stride(size_t count) { return (count + 63) / 64 * 64; }

// Of rows that are scored side by side: not a power of two apart, where they would share few places of a cache.
size_t RowStride(size_t count) { return Stride(count) | 64; }

template <typename T>
void Grow(std::vector<T>* v, size_t size) {
  if (v->size() < size) v->resize(size);
}

}  // namespace

HeadScorer::HeadScorer(const SequenceIndex& index, uint32_t layer, const RouteBlock& block,
                       const SelectOptions& options)
    : index_(index),
      g_(index.geometry()),
      layer_(layer),
      block_(block),
      options_(options),
      first_chunk_(block.first_chunk(g_)),
      chunks_(block.route_upto - first_chunk_),
      unit_tokens_(index.method().unit_tokens(g_)),
      units_per_chunk_(g_.chunk_tokens / unit_tokens_),
      skipped_units_((block.first_key % g_.chunk_tokens) / unit_tokens_),
      coarse_layout_(index.method().coarse_layout(g_)),
      fine_layout_(index.method().fine_layout(g_)) {}

uint64_t HeadScorer::KeysOf(uint64_t units) const { return KeysOfUnits(units, unit_tokens_); }

uint64_t HeadScorer::UnitsOf(uint64_t keys) const {
  if (unit_tokens_ == 1) return keys;
  uint64_t units = 0;
  for (uint32_t u = 0; u < units_per_chunk_; ++u) units |= (keys >> ((u + 1) * unit_tokens_ - 1) & 1) << u;
  return units;
}

size_t HeadScorer::coarse_stride() const { return Stride(chunks_); }

// Sketches are scored 64 tokens at a time, in shorter chunks, too.
size_t HeadScorer::fine_stride(size_t chunks) const {
  return RowStride(chunks * units_per_chunk_ + kSketchTokens - g_.chunk_tokens);
}

// As many query heads as the look-ups have registers for.
uint32_t HeadScorer::rows_at_once() const { return std::max(1u, kPooledAtOnce / g_.queries_per_kv_head()); }

uint32_t HeadScorer::kept_chunks(uint32_t budget) const {
  const uint64_t best = (uint64_t{budget} * options_.overprovision + g_.chunk_tokens - 1) / g_.chunk_tokens;
  return static_cast<uint32_t>(std::min<uint64_t>(std::max<uint64_t>(best, options_.scan_chunks), chunks_));
}

void HeadScorer::Load(uint32_t token, uint32_t rows, uint32_t kv_head, float* coarse, HeadScratch* s) const {
  s->token = token;
  s->kv_head = kv_head;
  const uint32_t heads = g_.queries_per_kv_head();
  const size_t count = size_t{heads} * g_.head_dim;
  s->queries_of_head.resize(rows * count);
  s->weights.resize(rows * count * coarse_layout_.vectors);
  const float scale = 1.0f / std::sqrt(static_cast<float>(g_.head_dim));
  for (uint32_t r = 0; r < rows; ++r) {
    const size_t first = size_t{token + r} * g_.query_heads + size_t{kv_head} * heads;
    ToFloats(block_.queries + first * g_.head_dim, count, scale, &s->queries_of_head[r * count]);
  }
  const SecondWeight second = SecondWeightOf(index_.method().form);
  WeighQueries(s->queries_of_head.data(), rows * heads, coarse_layout_, second, s->weights.data());
  s->queries = {s->weights.data(), rows * heads, g_.head_dim, coarse_layout_.vectors};
  if (sketch()) {
    RoundQueries(s->queries_of_head.data(), rows * heads, g_.head_dim, index_.method().deal(layer_, kv_head),
                 &s->centre_queries);
    MakeSketchTables(s->queries, index_.method().deal(layer_, kv_head), &s->tables);
  }
  if (coarse == nullptr) {
    Grow(&s->coarse, rows * heads * coarse_stride());
    coarse = s->coarse.data();
  }
  s->coarse_scores = coarse;
}

void HeadScorer::SetReferences(float per_unit, HeadScratch* s) const {
  const uint32_t of_head = g_.queries_per_kv_head();
  s->references.resize(s->queries.heads);
  s->besides.resize(s->queries.heads);
  for (uint32_t h = 0; h < s->queries.heads; ++h) {
    const size_t at = size_t{s->token + h / of_head} * g_.query_heads + s->kv_head * of_head + h % of_head;
    const float attended = block_.attended == nullptr ? kOutOfRange : block_.attended[at];
    const bool known = std::isfinite(attended) && attended > kOutOfRange;
    s->references[h] = known ? attended - per_unit : kOutOfRange;
    s->besides[h] = known ? 1.0f : 0.0f;
  }
}

// What is attended may be unknown, and the scores of groups may be bounds, far above all that is attended.
void HeadScorer::RaiseReference(uint32_t head, const float* scores, uint32_t count, HeadScratch* s) const {
  float& reference = s->references[head];
  if (sketch() && s->besides[head] > 0) return;
  const float raised = LargestOf(scores, count, reference);
  s->besides[head] *= std::exp(reference - raised);
  reference = raised;
}

CentreRun HeadScorer::Run(const HeadScratch& s, uint32_t chunk, bool extents) const {
  return {index_.Coarse(layer_, s.kv_head, chunk), extents ? index_.Extents(layer_, s.kv_head, chunk) : nullptr};
}

void HeadScorer::ScoreCoarse(bool extents, const HeadScratch& s, float* scores) const {
  ScoreCoarseFrom(0, chunks_, extents, s, scores);
}

// Of chunks [i, end) of the range.
void HeadScorer::ScoreCoarseFrom(uint32_t i, uint32_t end, bool extents, const HeadScratch& s, float* scores) const {
  const size_t stride = coarse_stride();
  while (i < end) {
    const uint32_t chunk = first_chunk_ + i;
    const uint32_t count = std::min(SequenceIndex::SegmentEnd(chunk), first_chunk_ + end) - chunk;
    const CentreRun run = Run(s, chunk, extents);
    if (sketch()) {
      const CentreRun next = i + count < end ? Run(s, chunk + count, extents) : CentreRun();
      ScoreCentres(s.centre_queries, run, count, next, scores + i, stride);
    } else {
      ScoreUnits(s.queries, coarse_layout_, run.centres, count, scores + i, stride);
    }
    i += count;
  }
}

void HeadScorer::ChooseChunks(uint32_t wanted, bool coarse, HeadScratch* s, std::vector<uint32_t>* chunks) const {
  chunks->clear();
  const bool all = wanted >= chunks_, ranked = !all && index_.method().plan != nullptr;
  if (coarse || (all ? sketch() : !ranked)) ScoreCoarse(false, *s, s->coarse_scores);
  if (all) {
    for (uint32_t chunk = 0; chunk < chunks_; ++chunk) chunks->push_back(chunk);
    return;
  }
  const size_t stride = coarse_stride();
  const uint32_t heads = s->queries.heads;
  Grow(&s->pooled, stride);
  Grow(&s->scores, ranked ? stride * heads : 0);
  if (ranked) ScoreCoarse(true, *s, s->scores.data());
  const float* const all_ranks = ranked ? s->scores.data() : s->coarse_scores;
  // A chunk's score stands for each of its tokens.
  SetReferences(std::log(static_cast<float>(g_.chunk_tokens)), s);
  Grow(&s->weights_of_units, stride * heads);
  for (uint32_t h = 0; h < heads; ++h) {
    const float* const ranks = all_ranks + h * stride;
    RaiseReference(h, ranks, chunks_, s);
    WeighScores(ranks, chunks_, s->references[h], &s->weights_of_units[h * stride]);
  }
  s->parts.resize(heads);
  MakeParts(options_.pooling, s->weights_of_units.data(), heads, heads, chunks_, stride, s->besides.data(),
            s->parts.data());
  PoolSomeHeads(options_.pooling, s->weights_of_units.data(), 0, heads, chunks_, stride, s->parts.data(),
                s->pooled.data());
  TopCut cut = CutTop(s->pooled.data(), chunks_, wanted, &s->work);
  // The row is padded to whole blocks; what lies behind the last chunk is not one.
  std::fill(s->pooled.begin() + chunks_, s->pooled.begin() + stride, 0.0f);
  s->masks.resize(stride / 64);
  TakeTop(s->pooled.data(), static_cast<uint32_t>(stride / 64), 64, &cut, s->masks.data());
  for (uint32_t b = 0; b < s->masks.size(); ++b) {
    for (uint64_t kept = s->masks[b]; kept != 0; kept &= kept - 1) chunks->push_back(b * 64 + absl::countr_zero(kept));
  }
  if (!ranked || coarse) return;
  for (size_t i = 0, end; i < chunks->size(); i = end) {
    for (end = i + 1; end < chunks->size() && (*chunks)[end] == (*chunks)[end - 1] + 1;) ++end;
    ScoreCoarseFrom((*chunks)[i], (*chunks)[end - 1] + 1, false, *s, s->coarse_scores);
  }
}

// Some query heads at a time: the weights of more would not stay in the cache until they are pooled.
void HeadScorer::ScoreFine(const std::vector<uint32_t>& chunks, HeadScratch* s, float* shares) const {
  const uint32_t heads = g_.queries_per_kv_head();
  const uint32_t at_once = options_.pooling == Pooling::kSumLogits ? heads : std::min(heads, kPooledAtOnce);
  const size_t stride = BeginFine(chunks, at_once, s);
  const auto units = static_cast<uint32_t>(chunks.size() * units_per_chunk_);
  uint16_t* const weights = s->weights_of_units.data();
  for (uint32_t first = 0; first < heads; first += at_once) {
    const uint32_t some = std::min(at_once, heads - first);
    float* const parts = &s->parts[first];
    WeighUnitsOf(chunks, first, some, stride, s);
    MakeParts(options_.pooling, weights, some, heads, units, stride, &s->besides[first], parts);
    PoolSomeHeads(options_.pooling, weights, first, some, units, stride, parts, shares);
  }
}

void HeadScorer::WeighFine(const std::vector<uint32_t>& chunks, HeadScratch* s) const {
  const uint32_t heads = g_.queries_per_kv_head(), all = s->queries.heads;
  const size_t stride = BeginFine(chunks, all, s);
  const auto units = static_cast<uint32_t>(chunks.size() * units_per_chunk_);
  WeighUnitsOf(chunks, 0, all, stride, s);
  for (uint32_t first = 0; first < all; first += heads) {
    MakeParts(options_.pooling, &s->weights_of_units[first * stride], heads, heads, units, stride, &s->besides[first],
              &s->parts[first]);
  }
}

uint32_t HeadScorer::KeepFine(uint32_t row, size_t chunks, float least, const uint64_t* skip, const HeadScratch& s,
                              float* kept, uint32_t* places) const {
  const uint32_t heads = g_.queries_per_kv_head(), pooled = PooledRows(options_.pooling, heads);
  const size_t stride = fine_stride(chunks);
  const auto keep = options_.pooling == Pooling::kMaxSoftmax ? KeepShares<true> : KeepShares<false>;
  return keep(&s.weights_of_units[row * heads * stride], stride, pooled, &s.parts[row * heads],
              static_cast<uint32_t>(chunks), units_per_chunk_, least, skip, kept, places);
}

// Makes room for the weights of so many heads; returns the row's stride.
size_t HeadScorer::BeginFine(const std::vector<uint32_t>& chunks, uint32_t heads, HeadScratch* s) const {
  const size_t stride = fine_stride(chunks.size());
  Grow(&s->weights_of_units, stride * heads);
  s->parts.resize(s->queries.heads);
  ListRecords(chunks, s);
  SetReferences(0, s);
  return stride;
}

// s->weights_of_units[h * stride + i]: of unit i of the chunks, for query heads [first, first + some).
void HeadScorer::WeighUnitsOf(const std::vector<uint32_t>& chunks, uint32_t first, uint32_t some, size_t stride,
                              HeadScratch* s) const {
  if (!sketch()) Grow(&s->scores, stride * some);
  for (uint32_t h = first; sketch() && h < first + some; ++h) {
    if (s->besides[h] > 0) continue;
    for (const uint32_t chunk : chunks) {
      s->references[h] = std::max(s->references[h], s->coarse_scores[h * coarse_stride() + chunk]);
    }
  }
  for (size_t i = 0; i < chunks.size();) {
    // Chunks that follow each other in one segment are scored together.
    const uint32_t begin = chunks[i], end = SequenceIndex::SegmentEnd(first_chunk_ + begin) - first_chunk_;
    uint32_t count = 1;
    while (i + count < chunks.size() && chunks[i + count] == begin + count && begin + count < end) ++count;
    ScoreChunks(begin, count, i, first, some, stride, s);
    i += count;
  }
  const auto units = static_cast<uint32_t>(chunks.size() * units_per_chunk_);
  const uint32_t skipped = chunks.empty() || chunks[0] != 0 ? 0 : skipped_units_;
  for (uint32_t h = 0; h < some; ++h) {
    uint16_t* const weights = &s->weights_of_units[h * stride];
    if (sketch()) {
      // A short chunk's record has more tokens.
      for (uint32_t i = units; i % kWeightsAtOnce != 0; ++i) weights[i] = 0;
    } else {
      const float* const scores = &s->scores[h * stride];
      RaiseReference(first + h, scores + skipped, units - skipped, s);
      WeighScores(scores, units, s->references[first + h], weights);
    }
    std::fill_n(weights, skipped, uint16_t{0});
  }
}

void HeadScorer::ListRecords(const std::vector<uint32_t>& chunks, HeadScratch* s) const {
  s->records.clear();
  for (const uint32_t chunk : chunks) s->records.push_back(index_.Fine(layer_, s->kv_head, first_chunk_ + chunk));
  // Behind the last there is nothing to fetch: what is in the cache already.
  if (!chunks.empty()) s->records.insert(s->records.end(), kRecordsAhead, s->records.back());
}

// Of chunks from `begin` on, the at-th and those behind it of the list: weights of tokens, or scores of groups.
void HeadScorer::ScoreChunks(uint32_t begin, uint32_t count, size_t at, uint32_t first, uint32_t some, size_t stride,
                             HeadScratch* s) const {
  const uint8_t* const* records = &s->records[at];
  at *= units_per_chunk_;
  if (sketch()) {
    WeighTokens(s->tables, g_.head_dim, first, some, index_.Coarse(layer_, s->kv_head, first_chunk_ + begin), records,
                count, g_.chunk_tokens, s->coarse_scores + first * coarse_stride() + begin, coarse_stride(),
                &s->references[first], &s->weights_of_units[at], stride);
    return;
  }
  ScoreQueries queries = s->queries;
  queries.data += size_t{first} * queries.vectors * queries.head_dim;
  queries.heads = some;
  ScoreUnits(queries, fine_layout_, *records, count * units_per_chunk_, &s->scores[at], stride);
}

}  // namespace hga
