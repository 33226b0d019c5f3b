#include <omp.h>

#include <algorithm>

#include "absl/numeric/bits.h"
#include "router/index/top_units.h"
#include "tests/quality/chooser.h"
#include "tests/quality/exact_mass.h"

namespace hga {
namespace {

class OracleChooser : public Chooser {
 public:
  OracleChooser(const KvGeometry& g, uint32_t unit_tokens) : g_(g), unit_tokens_(unit_tokens), mass_(g) {}

  uint32_t unit_tokens() const override { return unit_tokens_; }

  void Choose(const StepRows& rows, const std::vector<RoutedRows>& blocks, const BlockOfChunk& block_of,
              std::vector<std::vector<HeadSelection>>* out, std::vector<std::vector<float>>* missed) override {
    missed->assign(blocks.size(), {});
    out->resize(blocks.size());
    for (auto& heads : *out) heads.resize(g_.kv_heads);
    if (blocks.empty()) return;
    scratch_.resize(std::max<size_t>(scratch_.size(), omp_get_max_threads()));
    // A row that attends everything shares nothing.
    const bool shared = std::any_of(blocks.begin(), blocks.end(), [](const RoutedRows& b) { return b.route.shared; });
    if (rows.path == Path::kDecode && shared) return ChooseShared(rows, blocks, block_of, out);
    for (uint32_t head = 0; head < g_.kv_heads; ++head) {
      mass_.Load(rows, head, block_of);
#pragma omp parallel for schedule(dynamic)
      for (size_t b = 0; b < blocks.size(); ++b) {
        ChooseBlock(blocks[b], &scratch_[omp_get_thread_num()], &(*out)[b][head]);
      }
    }
  }

 private:
  struct Scratch {
    std::vector<float> units;
    std::vector<uint64_t> taken, masks;
    std::vector<int32_t> work;
  };

  // The KV heads of each row compete for the layer's keys, as the router cuts them (RouteBlock::shared).
  void ChooseShared(const StepRows& rows, const std::vector<RoutedRows>& blocks, const BlockOfChunk& block_of,
                    std::vector<std::vector<HeadSelection>>* out) {
    shares_.resize(blocks.size());
    for (std::vector<float>& shares : shares_) shares.clear();
    for (uint32_t head = 0; head < g_.kv_heads; ++head) {
      mass_.Load(rows, head, block_of);
#pragma omp parallel for schedule(dynamic)
      for (size_t b = 0; b < blocks.size(); ++b) {
        Scratch* s = &scratch_[omp_get_thread_num()];
        s->taken.assign(blocks[b].route.route_upto - blocks[b].route.first_chunk(g_), 0);
        PoolUnits(blocks[b], 0, s);
        for (const float mass : s->units) shares_[b].push_back(mass / g_.queries_per_kv_head());
      }
    }
#pragma omp parallel for schedule(dynamic)
    for (size_t b = 0; b < blocks.size(); ++b) {
      CutShared(blocks[b].route, shares_[b], &scratch_[omp_get_thread_num()], (*out)[b].data());
    }
  }

  // shares: [kv_heads][units of the range].
  void CutShared(const RouteBlock& route, const std::vector<float>& shares, Scratch* s, HeadSelection* out) const {
    const uint32_t first = route.first_chunk(g_), chunks = route.route_upto - first;
    const uint32_t per_chunk = g_.chunk_tokens / unit_tokens_;
    const uint32_t budget = route.budget_keys[0];
    TopCut cut;
    if (budget < route.keys(g_)) {
      const uint32_t wanted = budget * g_.kv_heads / unit_tokens_;
      cut = CutTop(shares.data(), static_cast<uint32_t>(shares.size()), wanted, &s->work);
    }
    if (budget != kEverything && cut.score < route.least_share) cut = {route.least_share, 0};
    s->masks.resize(chunks);
    for (uint32_t head = 0; head < g_.kv_heads; ++head) {
      out[head].clear();
      TakeTop(shares.data() + size_t{head} * chunks * per_chunk, chunks, per_chunk, &cut, s->masks.data());
      for (uint32_t c = 0; c < chunks; ++c) {
        const uint64_t mask = budget == kEverything ? RoutableMask(g_, first + c, route.first_key)
                                                    : KeysOfUnits(s->masks[c], unit_tokens_);
        if (mask != 0) out[head].push_back({first + c, 0, mask});
      }
    }
  }

  void ChooseBlock(const RoutedRows& block, Scratch* s, HeadSelection* out) {
    const RouteBlock& route = block.route;
    const uint32_t first = route.first_chunk(g_), chunks = route.route_upto - first;
    const uint32_t per_chunk = g_.chunk_tokens / unit_tokens_;
    out->clear();
    s->taken.assign(chunks, 0);
    s->masks.resize(chunks);
    uint32_t held = 0;
    for (uint32_t t = 0; t < route.tokens; ++t) {
      const uint32_t budget = route.budget_keys[t];
      if (budget >= route.keys(g_)) {
        for (uint32_t c = 0; c < chunks; ++c) s->masks[c] = RoutableMask(g_, first + c, route.first_key);
      } else if (budget >= held + unit_tokens_) {
        PoolUnits(block, t, s);
        TopCut cut = CutTop(s->units.data(), chunks * per_chunk, (budget - held) / unit_tokens_, &s->work);
        TakeTop(s->units.data(), chunks, per_chunk, &cut, s->masks.data());
        for (uint32_t c = 0; c < chunks; ++c) s->masks[c] = KeysOfUnits(s->masks[c], unit_tokens_);
      } else {
        continue;
      }
      for (uint32_t c = 0; c < chunks; ++c) {
        const uint64_t mask = s->masks[c] & ~s->taken[c];
        if (mask == 0) continue;
        s->taken[c] |= mask;
        held += absl::popcount(mask);
        out->push_back({first + c, t, mask});
      }
    }
    std::sort(out->begin(), out->end(), [](const SelectedChunk& a, const SelectedChunk& b) {
      return a.chunk != b.chunk ? a.chunk < b.chunk : a.first_token < b.first_token;
    });
  }

  // Mass of every unit of the range, averaged over the query heads; 0 for what is taken or before the range.
  void PoolUnits(const RoutedRows& block, uint32_t token, Scratch* s) {
    const RouteBlock& route = block.route;
    const uint32_t begin = route.first_chunk(g_) * g_.chunk_tokens, end = route.route_upto * g_.chunk_tokens;
    const float* mass = mass_.Softmax(block.first_row + token);
    s->units.assign((end - begin) / unit_tokens_, 0.0f);
    for (uint32_t h = 0; h < g_.queries_per_kv_head(); ++h, mass += mass_.stride()) {
      if (unit_tokens_ == 1) {
        for (uint32_t key = route.first_key; key < end; ++key) s->units[key - begin] += mass[key];
        continue;
      }
      for (uint32_t first = route.first_key; first < end; first += unit_tokens_) {
        float* unit = &s->units[(first - begin) / unit_tokens_];
        for (uint32_t key = first; key < first + unit_tokens_; ++key) *unit += mass[key];
      }
    }
    for (uint32_t u = 0; u < s->units.size(); ++u) {
      const uint32_t key = u * unit_tokens_;
      if (s->taken[key / g_.chunk_tokens] >> (key % g_.chunk_tokens) & 1) s->units[u] = 0;
    }
  }

  // Mask of units to mask of keys.
  const KvGeometry g_;
  const uint32_t unit_tokens_;
  ExactMass mass_;
  std::vector<Scratch> scratch_;  // one per thread
  std::vector<std::vector<float>> shares_;  // [blocks]
};

}  // namespace

std::unique_ptr<Chooser> NewOracleChooser(const KvGeometry& g, uint32_t unit_tokens) {
  return std::make_unique<OracleChooser>(g, unit_tokens);
}

}  // namespace hga
