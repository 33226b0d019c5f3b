#include "gpu_worker/device_defaults.h"

#include <algorithm>

#include "common/base/cores.h"

namespace hga {
namespace {

// Weights are read once for so many tokens, and so is a prompt's history. Twice as many are a fifth faster, and whoever
// is being answered meanwhile waits twice as long for a token.
constexpr uint32_t kBatchTokens = 512;
// A GPU makes K/V faster than one thread sums up its keys.
constexpr uint32_t kMostSealThreads = 4;
// The most that the flag takes.
constexpr uint64_t kEverything = uint64_t{1} << 20;

}  // namespace

EngineOptions EngineOnDevice(const GpuWorkerOptions& o, const KvGeometry& geometry, uint64_t arena_blocks) {
  EngineOptions engine = o.engine;
  engine.seal_threads = std::clamp<uint32_t>(Cores() / 4, 1, kMostSealThreads);
  if (!o.Gives("--prefill_window_tokens")) {
    engine.prefill_window_tokens = std::max(engine.prefill_window_tokens, kBatchTokens);
  }
  if (!o.Gives("--prefill_batch_tokens")) {
    engine.prefill_batch_tokens = std::min(kBatchTokens, engine.prefill_window_tokens);
  }
  if (!o.Gives("--dense_prefill_tokens")) {
    const uint64_t all = kEverything / geometry.chunk_tokens;
    const uint64_t chunks = arena_blocks == 0 ? all : std::min(all, arena_blocks / (2 * geometry.layers));
    const auto tokens = static_cast<uint32_t>(chunks * geometry.chunk_tokens);
    engine.dense_prefill_tokens = std::max(engine.dense_prefill_tokens, tokens);
  }
  return engine;
}

uint64_t SummariesOnDevice(const GpuWorkerOptions& o) {
  return o.Gives("--device_summaries") ? o.device_summaries : kSummariesAsRoomAllows;
}

}  // namespace hga
