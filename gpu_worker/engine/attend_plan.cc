#include "gpu_worker/engine/attend_plan.h"

#include <algorithm>

#include "absl/numeric/bits.h"
#include "common/kv/kv_rows.h"

namespace hga {
namespace {

// First chunk of the window.
uint32_t WindowStart(const AttendShape& shape, uint32_t chunk) {
  return chunk > shape.window_chunks ? chunk - shape.window_chunks : 0;
}

uint32_t SinkChunks(const AttendShape& shape) {
  return (shape.sink_tokens + shape.geometry.chunk_tokens - 1) / shape.geometry.chunk_tokens;
}

void Clear(const AttendShape& shape, uint32_t first_row, uint32_t rows, QueryBlock* out) {
  out->first_row = first_row;
  out->rows = rows;
  out->runs.resize(shape.geometry.kv_heads);
  for (auto& runs : out->runs) runs.clear();
}

// Adds the chunk's first `tokens` tokens for every KV head.
void AddChunk(const KvGeometry& g, uint32_t chunk, uint32_t tokens, const void* block, QueryBlock* out) {
  for (uint32_t head = 0; head < g.kv_heads; ++head) {
    for (uint32_t group = 0; group * g.group_tokens < tokens; ++group) {
      const KvPlace place = PlaceInBlock(g, block, head, group * g.group_tokens);
      KvRun run;
      run.k = place.k;
      run.v = place.v;
      run.position = chunk * g.chunk_tokens + group * g.group_tokens;
      run.tokens = static_cast<uint16_t>(std::min(g.group_tokens, tokens - group * g.group_tokens));
      out->runs[head].push_back(run);
    }
  }
}

// Tokens of a chunk with which a group begins.
uint64_t GroupStarts(const KvGeometry& g) {
  uint64_t starts = 0;
  for (uint32_t token = 0; token < g.chunk_tokens; token += g.group_tokens) starts |= uint64_t{1} << token;
  return starts;
}

// Adds the runs of consecutive keys of a mask; place(token of the chunk, &run) says where each lies. A run does not
// cross groups: there K and V are not contiguous. Keys are mostly single, so each start of a run is gone to directly.
template <typename Place>
void AddMask(const KvGeometry& g, uint64_t group_starts, const SelectedChunk& selected, const Place& place,
             std::vector<KvRun>* runs) {
  const uint64_t mask = selected.mask;
  for (uint64_t starts = mask & (~(mask << 1) | group_starts); starts != 0; starts &= starts - 1) {
    const uint32_t token = absl::countr_zero(starts);
    const uint32_t left = absl::countr_zero(group_starts >> token >> 1) + 1;  // to the end of the group
    // Made where it stays: copied from the stack, wider than it was written, each would wait for that.
    KvRun& run = runs->emplace_back();
    run.position = selected.chunk * g.chunk_tokens + token;
    run.tokens = static_cast<uint16_t>(std::min<uint32_t>(absl::countr_one(mask >> token), left));
    run.first_row = static_cast<uint16_t>(selected.first_token);
    place(token, &run);
  }
}

// What a row sees comes before what only later rows see, so that it is added up in the same order whatever those
// select: the same bits.
void SortByRow(uint32_t rows, std::vector<KvRun>* runs) {
  if (rows == 1) return;
  std::stable_sort(runs->begin(), runs->end(),
                   [](const KvRun& a, const KvRun& b) { return a.first_row < b.first_row; });
}

}  // namespace

ChunkRange RoutedChunks(const AttendShape& shape, uint32_t chunk) {
  return {shape.sink_tokens / shape.geometry.chunk_tokens, WindowStart(shape, chunk)};
}

ChunkRange OptionalChunks(const AttendShape& shape, uint32_t chunk) {
  return {SinkChunks(shape), WindowStart(shape, chunk)};
}

std::vector<uint32_t> MandatoryChunks(const AttendShape& shape, uint32_t chunk) {
  std::vector<uint32_t> chunks;
  const uint32_t window = WindowStart(shape, chunk);
  for (uint32_t c = 0; c < SinkChunks(shape) && c < window; ++c) chunks.push_back(c);
  for (uint32_t c = window; c <= chunk; ++c) chunks.push_back(c);
  return chunks;
}

uint32_t BudgetKeys(const AttendShape& shape, const BudgetOptions& budget, uint32_t position) {
  const KvGeometry& g = shape.geometry;
  const ChunkRange routed = RoutedChunks(shape, position / g.chunk_tokens);
  if (routed.empty()) return 0;
  const uint32_t all = routed.end * g.chunk_tokens - shape.sink_tokens;
  if (budget.fraction >= 1) return all;
  // One group at least: some methods select no less.
  return std::min(std::max(budget.Keys(position), g.group_tokens), all);
}

uint32_t PrefillBudgetKeys(const AttendShape& shape, const BudgetOptions& budget, uint32_t position) {
  const uint32_t keys = BudgetKeys(shape, budget, position);
  if (budget.fraction >= 1) return keys;
  const uint64_t share = shape.block_tokens + position % shape.block_tokens + 1;
  return std::max(static_cast<uint32_t>(keys * share / (2 * shape.block_tokens)),
                  std::min(keys, shape.geometry.group_tokens));
}

uint32_t MandatoryKeys(const AttendShape& shape, uint32_t position) {
  const uint32_t chunk_tokens = shape.geometry.chunk_tokens;
  const uint32_t window = WindowStart(shape, position / chunk_tokens) * chunk_tokens;
  return std::min(shape.sink_tokens, window) + position + 1 - window;
}

void PlanMandatory(const AttendShape& shape, uint32_t first_row, uint32_t rows, uint32_t first_position,
                   const BlockOfChunk& block, QueryBlock* out) {
  Clear(shape, first_row, rows, out);
  const uint32_t chunk_tokens = shape.geometry.chunk_tokens, own = first_position / chunk_tokens;
  const uint32_t last = first_position + rows - 1, window = WindowStart(shape, own);
  for (uint32_t chunk : MandatoryChunks(shape, own)) {
    const uint32_t end = chunk < window ? shape.sink_tokens : last + 1;
    AddChunk(shape.geometry, chunk, std::min(chunk_tokens, end - chunk * chunk_tokens), block(chunk), out);
  }
}

void PlanRouted(const AttendShape& shape, uint32_t first_row, uint32_t rows,
                const std::vector<HeadSelection>& selection, const BlockOfChunk& block, QueryBlock* out) {
  Clear(shape, first_row, rows, out);
  const KvGeometry& g = shape.geometry;
  // As PlaceInBlock, whose divisions would be most of the time: there are thousands of runs. In bytes.
  const uint32_t group_tokens = g.group_tokens;
  const size_t row = g.row_bytes(), k_to_v = g.k_to_v() * g.element_bytes();
  const size_t group_bytes = g.group_elements() * g.element_bytes();
  const uint64_t group_starts = GroupStarts(g);
  for (uint32_t head = 0; head < g.kv_heads; ++head) {
    uint32_t chunk = UINT32_MAX;
    const uint8_t* data = nullptr;
    const size_t first = g.k_run(head, 0) * g.element_bytes();
    const auto place = [&](uint32_t token, KvRun* run) {
      const uint32_t group = token / group_tokens, in_group = token - group * group_tokens;
      const uint8_t* const k = data + first + group * group_bytes + in_group * row;
      run->k = k;
      run->v = k + k_to_v;
    };
    for (const SelectedChunk& selected : selection[head]) {
      if (selected.first_token >= rows) continue;
      if (selected.chunk != chunk) data = static_cast<const uint8_t*>(block(chunk = selected.chunk));
      AddMask(g, group_starts, selected, place, &out->runs[head]);
    }
    SortByRow(rows, &out->runs[head]);
  }
}

void PlanPlaced(const AttendShape& shape, uint32_t first_row, uint32_t rows,
                const std::vector<HeadSelection>& selection, const PlaceRun& place, QueryBlock* out) {
  Clear(shape, first_row, rows, out);
  const uint64_t group_starts = GroupStarts(shape.geometry);
  for (uint32_t head = 0; head < shape.geometry.kv_heads; ++head) {
    for (const SelectedChunk& selected : selection[head]) {
      if (selected.first_token >= rows) continue;
      const auto place_here = [&](uint32_t token, KvRun* run) { place(head, selected.chunk, token, run); };
      AddMask(shape.geometry, group_starts, selected, place_here, &out->runs[head]);
    }
    SortByRow(rows, &out->runs[head]);
  }
}

std::vector<uint32_t> SelectedChunks(const std::vector<HeadSelection>& selection) {
  std::vector<uint64_t> selected;  // a bit for each chunk
  for (const HeadSelection& head : selection) {
    for (const SelectedChunk& s : head) {
      if (selected.size() <= s.chunk / 64) selected.resize(s.chunk / 64 + 1);
      selected[s.chunk / 64] |= uint64_t{1} << s.chunk % 64;
    }
  }
  std::vector<uint32_t> chunks;
  for (uint32_t i = 0; i < selected.size(); ++i) {
    for (uint64_t bits = selected[i]; bits != 0; bits &= bits - 1) chunks.push_back(64 * i + absl::countr_zero(bits));
  }
  return chunks;
}

uint64_t KeysInCommon(const std::vector<HeadSelection>& a, const std::vector<HeadSelection>& b) {
  uint64_t keys = 0;
  for (size_t head = 0; head < std::min(a.size(), b.size()); ++head) {
    auto other = b[head].begin();
    for (const SelectedChunk& s : a[head]) {
      while (other != b[head].end() && other->chunk < s.chunk) ++other;
      for (auto at = other; at != b[head].end() && at->chunk == s.chunk; ++at) {
        keys += absl::popcount(s.mask & at->mask);
      }
    }
  }
  return keys;
}

uint64_t SelectedKeys(uint32_t rows, const std::vector<HeadSelection>& selection) {
  uint64_t keys = 0;
  for (const HeadSelection& head : selection) {
    for (const SelectedChunk& s : head) {
      if (s.first_token < rows) keys += uint64_t{rows - s.first_token} * absl::popcount(s.mask);
    }
  }
  return keys;
}

}  // namespace hga
