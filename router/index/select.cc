#include "router/index/select.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "router/index/score.h"

namespace hga {
namespace {

constexpr uint32_t kNever = ~uint32_t{0};

// One call of Select for one KV head.
class HeadSelect {
 public:
  HeadSelect(const SequenceIndex& index, uint32_t layer, uint32_t kv_head, const RouteBlock& block,
             uint32_t overprovision, SelectScratch* scratch)
      : index_(index), g_(index.geometry()), layer_(layer), kv_head_(kv_head), block_(block),
        overprovision_(overprovision), s_(*scratch), chunks_(block.route_upto - block.first_chunk),
        groups_(chunks_ * g_.groups_per_chunk()) {
    s_.first_token.assign(groups_, kNever);
  }

  void Run(HeadSelection* out) {
    for (uint32_t t = 0; t < block_.tokens; ++t) {
      // Read once: the request may lie in memory that the peer can still write.
      const uint32_t budget = block_.budget_groups[t];
      if (budget == 0) continue;
      if (budget >= groups_) {
        for (uint32_t group = 0; group < groups_; ++group) Ask(group, t);
        break;
      }
      SelectToken(t, budget);
    }
    out->clear();
    const uint32_t first = block_.first_chunk * g_.groups_per_chunk();
    for (uint32_t group = 0; group < groups_; ++group) {
      if (s_.first_token[group] != kNever) out->push_back({first + group, s_.first_token[group]});
    }
  }

 private:
  void Ask(uint32_t group, uint32_t token) { s_.first_token[group] = std::min(s_.first_token[group], token); }

  void SelectToken(uint32_t token, uint32_t budget) {
    const uint32_t per_chunk = g_.groups_per_chunk();
    const uint64_t wanted = (uint64_t{budget} * overprovision_ + per_chunk - 1) / per_chunk;
    LoadQueries(token);
    s_.chunks.clear();
    if (wanted < chunks_) {
      ScoreChunks();
      KeepBest(chunks_, static_cast<uint32_t>(wanted), [&](uint32_t chunk) { s_.chunks.push_back(chunk); });
      std::sort(s_.chunks.begin(), s_.chunks.end());
    } else {
      for (uint32_t chunk = 0; chunk < chunks_; ++chunk) s_.chunks.push_back(chunk);
    }
    ScoreGroups();
    KeepBest(static_cast<uint32_t>(s_.chunks.size()) * per_chunk, budget, [&](uint32_t i) {
      Ask(s_.chunks[i / per_chunk] * per_chunk + i % per_chunk, token);
    });
  }

  void LoadQueries(uint32_t token) {
    const uint32_t heads = g_.queries_per_kv_head();
    const size_t count = size_t{heads} * g_.head_dim;
    const bf16* in = block_.queries + (size_t{token} * g_.query_heads + size_t{kv_head_} * heads) * g_.head_dim;
    s_.queries.resize(count);
    ToFloats(in, count, 1.0f / std::sqrt(static_cast<float>(g_.head_dim)), s_.queries.data());
    queries_ = {s_.queries.data(), heads, g_.head_dim};
  }

  // Rows of whole vectors, whatever the vector's width.
  size_t Reserve(uint32_t count) {
    const size_t stride = (size_t{count} + 63) / 64 * 64;
    if (s_.scores.size() < stride * queries_.heads) s_.scores.resize(stride * queries_.heads);
    if (s_.pooled.size() < stride) s_.pooled.resize(stride);
    return stride;
  }

  void ScoreChunks() {
    const size_t stride = Reserve(chunks_);
    for (uint32_t chunk = block_.first_chunk; chunk < block_.route_upto;) {
      const uint32_t end = std::min(SequenceIndex::SegmentEnd(chunk), block_.route_upto);
      ScoreUnits(queries_, index_.method().score, index_.ChunkUnit(layer_, kv_head_, chunk), end - chunk,
                 s_.scores.data() + (chunk - block_.first_chunk), stride);
      chunk = end;
    }
    PoolSoftmax(s_.scores.data(), queries_.heads, chunks_, stride, s_.pooled.data());
  }

  void ScoreGroups() {
    const uint32_t per_chunk = g_.groups_per_chunk();
    const uint32_t count = static_cast<uint32_t>(s_.chunks.size()) * per_chunk;
    const size_t stride = Reserve(count);
    for (size_t i = 0; i < s_.chunks.size(); ++i) {
      ScoreUnits(queries_, index_.method().score,
                 index_.GroupUnits(layer_, kv_head_, block_.first_chunk + s_.chunks[i]), per_chunk,
                 s_.scores.data() + i * per_chunk, stride);
    }
    PoolSoftmax(s_.scores.data(), queries_.heads, count, stride, s_.pooled.data());
  }

  // Calls `keep` for the indices of the `wanted` largest of pooled[0, count).
  template <typename Keep>
  void KeepBest(uint32_t count, uint32_t wanted, Keep keep) {
    s_.ranked.resize(count);
    for (uint32_t i = 0; i < count; ++i) {
      // Scores are never negative, so their bits sort like they do; not a number counts as nothing.
      const float score = s_.pooled[i] > 0 ? s_.pooled[i] : 0.0f;
      uint32_t bits;
      std::memcpy(&bits, &score, sizeof(bits));
      s_.ranked[i] = uint64_t{bits} << 32 | (kNever - i);
    }
    if (wanted < count) {
      std::nth_element(s_.ranked.begin(), s_.ranked.begin() + wanted, s_.ranked.end(), std::greater<uint64_t>());
    }
    for (uint32_t i = 0; i < std::min(wanted, count); ++i) keep(kNever - static_cast<uint32_t>(s_.ranked[i]));
  }

  const SequenceIndex& index_;
  const KvGeometry& g_;
  const uint32_t layer_, kv_head_;
  const RouteBlock& block_;
  const uint32_t overprovision_;
  SelectScratch& s_;
  const uint32_t chunks_, groups_;  // of the range
  ScoreQueries queries_;
};

}  // namespace

void Select(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, uint32_t overprovision,
            SelectScratch* scratch, HeadSelection* heads) {
  for (uint32_t kv_head = 0; kv_head < index.geometry().kv_heads; ++kv_head) {
    HeadSelect(index, layer, kv_head, block, overprovision, scratch).Run(&heads[kv_head]);
  }
}

}  // namespace hga
