#include "gpu_worker/model/memory_plan.h"

#include <algorithm>

namespace hga {
namespace {

// A driver context with cuBLAS loaded takes 300 to 500 MiB.
constexpr uint64_t kRuntimeBytes = uint64_t{512} << 20;

uint64_t WorkspaceBytes(const ModelConfig& c, const MemoryPlanOptions& o) {
  const uint64_t q = uint64_t{c.query_heads} * c.head_dim, kv = uint64_t{c.kv_heads} * c.head_dim;
  const uint64_t attention = 2 * uint64_t{c.hidden} + 2 * q + 2 * kv;  // residual, norm, queries, output, keys, values
  const uint64_t mlp = c.experts > 0 ? c.experts + uint64_t{c.experts_per_token} * (2 * c.expert_ffn + c.hidden)
                                     : 2 * uint64_t{c.ffn};
  return sizeof(float) * (o.batch_tokens * (attention + mlp) + uint64_t{o.sequences} * c.vocab_size);
}

}  // namespace

MemoryPlan PlanMemory(const ModelConfig& config, const KvGeometry& geometry, const SummaryMethod& method,
                      const MemoryPlanOptions& o) {
  const uint64_t token = geometry.bytes_per_token();
  const auto tokens = [&](uint64_t n) { return std::min<uint64_t>(n, o.context_tokens) * o.sequences; };
  MemoryPlan plan;
  plan.weights = o.weight_bytes;
  plan.runtime = kRuntimeBytes;
  plan.workspace = WorkspaceBytes(config, o);
  plan.window = tokens(uint64_t{o.dense_tokens} + geometry.chunk_tokens) * token;
  plan.routed_set = tokens(o.routed_tokens) * token;
  plan.staging = plan.routed_set / geometry.layers * std::min<uint32_t>(2, geometry.layers);
  plan.kv_store = o.context_tokens * token;
  plan.router = (o.context_tokens + geometry.chunk_tokens - 1) / geometry.chunk_tokens * method.chunk_bytes(geometry);
  return plan;
}

}  // namespace hga
