#include "gpu_worker/backend/cuda/shared_history.h"

#include <algorithm>

namespace hga {
namespace {

bool Same(const KvRun& a, const KvRun& b) {
  return a.k == b.k && a.v == b.v && a.position == b.position && a.tokens == b.tokens && a.first_row == b.first_row;
}

// Leading runs of finished chunks that all rows of the block see, of the head with the fewest.
uint32_t Leading(const KvGeometry& g, const QueryBlock& block) {
  const uint64_t finished = uint64_t{block.finished.size()} * g.chunk_tokens;
  size_t least = SIZE_MAX;
  for (const std::vector<KvRun>& runs : block.runs) {
    const auto end = std::find_if(runs.begin(), runs.end(), [&](const KvRun& run) {
      return run.first_row > 0 || run.position + run.tokens > finished;
    });
    least = std::min(least, static_cast<size_t>(end - runs.begin()));
  }
  return static_cast<uint32_t>(least);
}

// Of the first `most` runs of every list, how many are alike in both.
uint32_t Alike(const QueryBlock& a, const QueryBlock& b, uint32_t most) {
  size_t least = most;
  for (size_t head = 0; head < a.runs.size(); ++head) {
    least = std::min(least, b.runs[head].size());
    const auto end = a.runs[head].begin() + static_cast<ptrdiff_t>(least);
    const auto differ = std::mismatch(a.runs[head].begin(), end, b.runs[head].begin(), Same);
    least = static_cast<size_t>(differ.first - a.runs[head].begin());
  }
  return static_cast<uint32_t>(least);
}

}  // namespace

SharedHistory FindSharedHistory(const KvGeometry& geometry, absl::Span<const QueryBlock> blocks) {
  SharedHistory shared;
  if (blocks[0].rows == 1) return shared;
  shared.runs = Leading(geometry, blocks[0]);
  if (shared.runs < kLeastSharedRuns) return SharedHistory();
  for (; shared.blocks < blocks.size() && blocks[shared.blocks].rows > 1; ++shared.blocks) {
    const uint32_t alike = Alike(blocks[0], blocks[shared.blocks], shared.runs);
    if (alike < kLeastSharedRuns) break;
    shared.runs = alike;
  }
  return shared;
}

}  // namespace hga
