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

void Grow(std::vector<float>* v, size_t size) {
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

// As many query heads as the kernels have registers for.
uint32_t HeadScorer::rows_at_once() const {
  return options_.pooling == Pooling::kSumLogits ? 1 : std::max(1u, kPooledAtOnce / g_.queries_per_kv_head());
}

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
  if (index_.method().form == SummaryForm::kSketch) {
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

// nullptr: nothing.
const float* HeadScorer::Attended(const HeadScratch& s, uint32_t row) const {
  if (block_.attended == nullptr) return nullptr;
  return block_.attended + size_t{s.token + row} * g_.query_heads + s.kv_head * g_.queries_per_kv_head();
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
    if (index_.method().form == SummaryForm::kSketch) {
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
  const bool sketch = index_.method().form == SummaryForm::kSketch;
  if (coarse || (all ? sketch : !ranked)) ScoreCoarse(false, *s, s->coarse_scores);
  if (all) {
    for (uint32_t chunk = 0; chunk < chunks_; ++chunk) chunks->push_back(chunk);
    return;
  }
  const size_t stride = coarse_stride();
  const uint32_t heads = s->queries.heads;
  // The softmax destroys its scores; those of centres are needed again.
  Grow(&s->scores, stride * heads);
  Grow(&s->pooled, stride);
  if (ranked) {
    ScoreCoarse(true, *s, s->scores.data());
  } else {
    std::copy_n(s->coarse_scores, stride * heads, s->scores.data());
  }
  // A chunk's score stands for each of its tokens.
  const float* attended = Attended(*s, 0);
  s->per_chunk.resize(heads);
  const float per_chunk = std::log(static_cast<float>(g_.chunk_tokens));
  for (uint32_t h = 0; attended != nullptr && h < heads; ++h) s->per_chunk[h] = attended[h] - per_chunk;
  PoolHeads(options_.pooling, s->scores.data(), heads, chunks_, stride,
            attended == nullptr ? nullptr : s->per_chunk.data(), s->pooled.data());
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

// Some query heads at a time: the scores of more would not stay in the cache until they are pooled.
void HeadScorer::ScoreFine(const std::vector<uint32_t>& chunks, HeadScratch* s, float* shares,
                           size_t row_stride) const {
  const uint32_t heads = g_.queries_per_kv_head(), rows = s->queries.heads / heads;
  const uint32_t at_once = options_.pooling == Pooling::kSumLogits ? heads : std::min(heads, kPooledAtOnce);
  const size_t stride = fine_stride(chunks.size());
  const auto units = static_cast<uint32_t>(chunks.size() * units_per_chunk_);
  Grow(&s->scores, stride * std::max(at_once, rows > 1 ? rows * heads : 0));
  ListRecords(chunks, s);
  const auto pool = [&](uint32_t row, float* scores, uint32_t first, uint32_t some) {
    const float* attended = Attended(*s, row);
    PoolSomeHeads(options_.pooling, scores, first, some, heads, units, stride,
                  attended == nullptr ? nullptr : attended + first, shares + row * row_stride);
  };
  if (rows > 1) {
    ScoreUnitsOf(chunks, 0, rows * heads, stride, s);
    for (uint32_t row = 0; row < rows; ++row) pool(row, s->scores.data() + row * heads * stride, 0, heads);
    return;
  }
  for (uint32_t first = 0; first < heads; first += at_once) {
    const uint32_t some = std::min(at_once, heads - first);
    ScoreUnitsOf(chunks, first, some, stride, s);
    pool(0, s->scores.data(), first, some);
  }
}

// s->scores[h * stride + i]: of unit i of the chunks, for query heads [first, first + some).
void HeadScorer::ScoreUnitsOf(const std::vector<uint32_t>& chunks, uint32_t first, uint32_t some, size_t stride,
                              HeadScratch* s) const {
  for (size_t i = 0; i < chunks.size();) {
    // Chunks that follow each other in one segment are scored together.
    const uint32_t begin = chunks[i], end = SequenceIndex::SegmentEnd(first_chunk_ + begin) - first_chunk_;
    uint32_t count = 1;
    while (i + count < chunks.size() && chunks[i + count] == begin + count && begin + count < end) ++count;
    ScoreChunks(*s, &s->records[i], begin, count, first, some, s->scores.data() + i * units_per_chunk_, stride);
    i += count;
  }
  if (skipped_units_ == 0 || chunks.empty() || chunks[0] != 0) return;
  for (uint32_t h = 0; h < some; ++h) std::fill_n(s->scores.begin() + h * stride, skipped_units_, kOutOfRange);
}

void HeadScorer::ListRecords(const std::vector<uint32_t>& chunks, HeadScratch* s) const {
  s->records.clear();
  for (const uint32_t chunk : chunks) s->records.push_back(index_.Fine(layer_, s->kv_head, first_chunk_ + chunk));
  // Behind the last there is nothing to fetch: what is in the cache already.
  if (!chunks.empty()) s->records.insert(s->records.end(), kRecordsAhead, s->records.back());
}

// records: of the chunks from `begin` on, as ScoreTokens wants them.
void HeadScorer::ScoreChunks(const HeadScratch& s, const uint8_t* const* records, uint32_t begin, uint32_t count,
                             uint32_t first, uint32_t some, float* scores, size_t stride) const {
  if (index_.method().form == SummaryForm::kSketch) {
    ScoreTokens(s.tables, g_.head_dim, first, some, index_.Coarse(layer_, s.kv_head, first_chunk_ + begin), records,
                count, g_.chunk_tokens, s.coarse_scores + first * coarse_stride() + begin, coarse_stride(), scores,
                stride);
    return;
  }
  ScoreQueries queries = s.queries;
  queries.data += size_t{first} * queries.vectors * queries.head_dim;
  queries.heads = some;
  ScoreUnits(queries, fine_layout_, *records, count * units_per_chunk_, scores, stride);
}

}  // namespace hga
