#include "gpu_worker/backend/cuda/workspace.h"

#include <algorithm>

#include "common/base/status.h"
#include "gpu_worker/backend/cuda/f8_probe.h"

namespace hga {
namespace {

// Calls place(&pointer, elements) for every buffer.
template <typename Place>
void ForEachBuffer(const WorkspaceShape& s, Workspace* w, const Place& place) {
  const ModelConfig& c = s.config;
  const uint64_t rows = s.max_rows, few = std::min<uint64_t>(rows, kGemvRows), d = c.head_dim;
  const uint64_t q = c.query_heads * d, kv = c.kv_heads * d, states = rows * c.query_heads + s.part_states;
  const bool moe = c.experts > 0;
  const uint64_t per_row = moe ? c.experts_per_token : 1, width = moe ? c.expert_ffn : c.ffn, pairs = rows * per_row;
  place(&w->x, rows * c.hidden);
  place(&w->normed, (moe ? rows : few) * c.hidden);  // the experts' router is not to see rounded rows
  place(&w->normed_bf16, rows * c.hidden);
  place(&w->qkv, rows * (q + 2 * kv));
  place(&w->cos_sin, rows * c.rope_dims);
  place(&w->positions, rows);
  place(&w->take, rows);
  place(&w->q, rows * q);
  place(&w->q_bf16, rows * q);
  place(&w->guessed_queries, few * q);
  place(&w->kv, rows * 2 * kv);
  place(&w->m, states);
  place(&w->l, states);
  place(&w->o, states * d);
  place(&w->log_sum_exp, rows * c.query_heads);
  place(&w->missed, rows * c.query_heads);
  place(&w->value_sums, rows * kv);
  place(&w->value_counts, rows * c.kv_heads);
  place(&w->attended, few * q);
  place(&w->attended_bf16, rows * q);
  place(&w->projected, rows * c.hidden);
  place(&w->gate_up, pairs * 2 * width);
  place(&w->activated, few * per_row * width);
  place(&w->activated_bf16, pairs * width);
  place(&w->logits, uint64_t{kLogitRows} * c.vocab_size);
  const uint64_t slices = (c.vocab_size + kTopSlice - 1) / kTopSlice;
  place(&w->seen, kLogitRows * ((c.vocab_size + uint64_t{63}) / 64));
  place(&w->penalties, kLogitRows);
  place(&w->temperatures, kLogitRows);
  place(&w->masses, kLogitRows * slices);
  place(&w->top, kLogitRows * slices * kMaxTopLogits);
  place(&w->top_of_top, kLogitRows * ((slices * kMaxTopLogits + kTopSlice - 1) / kTopSlice) * kMaxTopLogits);
  place(&w->router, moe ? rows * c.experts : 0);
  place(&w->chosen, moe ? pairs : 0);
  place(&w->shares, moe ? pairs : 0);
  place(&w->order, moe ? pairs : 0);
  place(&w->tiles, moe ? MaxExpertTiles(static_cast<uint32_t>(pairs), c.experts) : 0);
  place(&w->tile_count, moe ? 1 : 0);
  place(&w->expert_out, moe ? pairs * c.hidden : 0);
  place(&w->scratch.rounded_weights, s.rounded_weight_bytes / sizeof(bf16));
  const uint32_t f8_rows = s.f8_cols > 0 ? s.max_rows / kF8Rows * kF8Rows : 0;
  w->scratch.f8_rows = f8_rows;
  place(&w->scratch.f8, uint64_t{f8_rows} * s.f8_cols);
  place(&w->scratch.f8_scales, uint64_t{f8_rows} * (s.f8_cols / kF8Group));
  place(&w->f8_probe, f8_rows > 0 ? kF8ProbeBytes : 0);
  place(&w->gemm, s.gemm_bytes);
}

}  // namespace

uint64_t WorkspaceBytes(const WorkspaceShape& shape) {
  Workspace unused;
  uint64_t bytes = 0;
  ForEachBuffer(shape, &unused, [&](auto** pointer, uint64_t elements) {
    bytes += DeviceBytes(elements * sizeof(**pointer));
  });
  return bytes;
}

absl::StatusOr<Workspace> MakeWorkspace(const WorkspaceShape& shape, DeviceMemory* memory) {
  Workspace w;
  HGA_ASSIGN_OR_RETURN(w.memory, memory->Allocate(DeviceUse::kWorkspace, WorkspaceBytes(shape)));
  uint8_t* at = w.memory.as();
  ForEachBuffer(shape, &w, [&](auto** pointer, uint64_t elements) {
    using Pointer = std::remove_reference_t<decltype(*pointer)>;
    *pointer = elements == 0 ? nullptr : reinterpret_cast<Pointer>(at);
    at += DeviceBytes(elements * sizeof(**pointer));
  });
  return w;
}

}  // namespace hga
