#include "gpu_worker/engine/attend_plan.h"

#include <algorithm>
#include <cmath>

namespace hga {
namespace {

uint32_t WindowStart(const AttendShape& shape, uint32_t chunk) {
  const uint32_t newest = chunk > shape.window_chunks ? chunk - shape.window_chunks : 0;
  return std::max(shape.sink_chunks, newest);
}

void Clear(const AttendShape& shape, uint32_t first_row, uint32_t rows, QueryBlock* out) {
  out->first_row = first_row;
  out->rows = rows;
  out->runs.resize(shape.geometry.kv_heads);
  for (auto& runs : out->runs) runs.clear();
}

// Adds the groups of one chunk up to and including `last_position` for every KV head.
void AddChunk(const KvGeometry& g, uint32_t chunk, uint32_t last_position, const bf16* block, QueryBlock* out) {
  const uint32_t start = chunk * g.chunk_tokens;
  const uint32_t tokens = std::min(g.chunk_tokens, last_position + 1 - start);
  for (uint32_t head = 0; head < g.kv_heads; ++head) {
    for (uint32_t group = 0; group * g.group_tokens < tokens; ++group) {
      KvRun run;
      run.k = block + g.k_run(head, group);
      run.v = block + g.v_run(head, group);
      run.position = start + group * g.group_tokens;
      run.tokens = static_cast<uint16_t>(std::min(g.group_tokens, tokens - group * g.group_tokens));
      out->runs[head].push_back(run);
    }
  }
}

}  // namespace

ChunkRange RoutedChunks(const AttendShape& shape, uint32_t chunk) {
  return {shape.sink_chunks, chunk > shape.window_chunks ? chunk - shape.window_chunks : 0};
}

std::vector<uint32_t> MandatoryChunks(const AttendShape& shape, uint32_t chunk) {
  std::vector<uint32_t> chunks;
  for (uint32_t c = 0; c < shape.sink_chunks && c <= chunk; ++c) chunks.push_back(c);
  for (uint32_t c = WindowStart(shape, chunk); c <= chunk; ++c) chunks.push_back(c);
  return chunks;
}

uint32_t BudgetGroups(const AttendShape& shape, const BudgetOptions& budget, uint32_t position) {
  const KvGeometry& g = shape.geometry;
  const ChunkRange routed = RoutedChunks(shape, position / g.chunk_tokens);
  if (routed.empty()) return 0;
  const uint32_t all = (routed.end - routed.first) * g.groups_per_chunk();
  if (budget.fraction >= 1) return all;
  const double wanted = std::ceil(double{budget.fraction} * position);
  const double tokens = std::min<double>(std::max<double>(wanted, budget.min_tokens), budget.max_tokens);
  const auto groups = static_cast<uint32_t>(std::ceil(tokens / g.group_tokens));
  return std::min(std::max(groups, 1u), all);
}

uint32_t MandatoryKeys(const AttendShape& shape, uint32_t position) {
  const uint32_t chunk_tokens = shape.geometry.chunk_tokens;
  const uint32_t sink = std::min(shape.sink_chunks * chunk_tokens, position + 1);
  const uint32_t window = WindowStart(shape, position / chunk_tokens) * chunk_tokens;
  return sink + (position + 1 > window ? position + 1 - window : 0);
}

void PlanMandatory(const AttendShape& shape, uint32_t first_row, uint32_t rows, uint32_t first_position,
                   const BlockOfChunk& block, QueryBlock* out) {
  Clear(shape, first_row, rows, out);
  const uint32_t last = first_position + rows - 1;
  for (uint32_t chunk : MandatoryChunks(shape, first_position / shape.geometry.chunk_tokens)) {
    AddChunk(shape.geometry, chunk, last, block(chunk), out);
  }
}

void PlanRouted(const AttendShape& shape, uint32_t first_row, uint32_t rows,
                const std::vector<HeadSelection>& selection, const BlockOfChunk& block, QueryBlock* out) {
  const KvGeometry& g = shape.geometry;
  Clear(shape, first_row, rows, out);
  for (uint32_t head = 0; head < g.kv_heads; ++head) {
    uint32_t chunk = UINT32_MAX;
    const bf16* data = nullptr;
    for (const SelectedGroup& selected : selection[head]) {
      if (selected.first_token >= rows) continue;
      if (selected.group / g.groups_per_chunk() != chunk) {
        chunk = selected.group / g.groups_per_chunk();
        data = block(chunk);
      }
      const uint32_t group = selected.group % g.groups_per_chunk();
      KvRun run;
      run.k = data + g.k_run(head, group);
      run.v = data + g.v_run(head, group);
      run.position = selected.group * g.group_tokens;
      run.tokens = static_cast<uint16_t>(g.group_tokens);
      run.first_row = static_cast<uint16_t>(selected.first_token);
      out->runs[head].push_back(run);
    }
  }
}

std::vector<uint32_t> SelectedChunks(const AttendShape& shape, const std::vector<HeadSelection>& selection) {
  std::vector<uint32_t> chunks;
  for (const HeadSelection& head : selection) {
    for (const SelectedGroup& s : head) {
      const uint32_t chunk = s.group / shape.geometry.groups_per_chunk();
      if (chunks.empty() || chunks.back() != chunk) chunks.push_back(chunk);
    }
  }
  std::sort(chunks.begin(), chunks.end());
  chunks.erase(std::unique(chunks.begin(), chunks.end()), chunks.end());
  return chunks;
}

uint64_t SelectedKeys(const AttendShape& shape, uint32_t rows, const std::vector<HeadSelection>& selection) {
  uint64_t keys = 0;
  for (const HeadSelection& head : selection) {
    for (const SelectedGroup& s : head) {
      if (s.first_token < rows) keys += uint64_t{rows - s.first_token} * shape.geometry.group_tokens;
    }
  }
  return keys;
}

}  // namespace hga
