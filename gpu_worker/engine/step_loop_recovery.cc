// What the step loop does when the router or blocks of the store are lost.
#include <algorithm>
#include <utility>

#include "common/base/request_id.h"
#include "common/base/status.h"
#include "gpu_worker/engine/step_loop.h"
#include "gpu_worker/engine/store_retry.h"

namespace hga {
namespace {

// A store that loses chunks faster than they are computed is broken.
constexpr int kMaxCuts = 4;

}  // namespace

// Falls back to dense attention when the router that knows the sequence is gone, and joins a new one.
void StepLoop::FollowRouter(Sequence* s) {
  if (!s->runs() || !s->request->routed) return;
  const RouterLink::Attachment now = link_->current();
  const bool known = now.client != nullptr && now.generation == s->route_generation;
  if (!s->fallback && !known) s->fallback = true;
  if (!s->fallback || s->reattaching || now.client == nullptr || now.generation == s->refused_generation) return;
  s->reattaching = true;
  sealer_->Reattach(s->id);
}

// Goes back to the chunk that the store lost and computes again from the token ids.
void StepLoop::CutBack(Sequence* s) {
  if (!s->runs() || !s->cut_to.has_value() || s->seals_pending > 0) return;
  const uint32_t chunk = *s->cut_to;
  s->cut_to.reset();
  if (++s->cuts > kMaxCuts) {
    return End(s, absl::DataLossError("kv_store keeps losing blocks of this sequence; its log says why"));
  }
  const uint64_t lost = (s->hashes.size() - chunk) * uint64_t{model_.geometry.layers};
  s->stats.tiers.recomputed += lost;
  metrics_->CountBlocks(EngineMetrics::Tier::kMiss, lost);
  metrics_->CountCutBack();
  Warn(s, "blocks were lost by the store and computed again");
  s->hashes.resize(chunk);
  s->lost_from = std::max(s->lost_from, s->committed);
  s->committed = std::min(s->committed, chunk);
  s->computed = chunk * model_.geometry.chunk_tokens;
  s->stats.reused_tokens = std::min(s->stats.reused_tokens, s->computed);
  s->acked = 0;  // until the router has opened the shorter sequence
  s->reattaching = s->request->routed;
  s->blocks.DropFrom(chunk);
  sealer_->CutBack(s->id, chunk);
  s->window_lost = true;
  s->window_failures = 0;
}

// After a cut the window lies where blocks may have been released. Where the store has no room for them others give
// theirs back, and the sequence waits meanwhile.
void StepLoop::RestoreWindow(Sequence* s) {
  if (!s->runs() || !s->window_lost || s->cut_to.has_value() || absl::Now() < s->window_at) return;
  uint32_t lacking = 0;
  const absl::Status status = FetchWindow(s, &lacking);
  if (s->cut_to.has_value()) return;  // more is lost
  s->window_lost = !status.ok();
  if (status.ok()) return;
  if (!absl::IsResourceExhausted(status) || ++s->window_failures > kStoreAttempts) {
    return End(s, ExplainShortage(status));
  }
  MakeRoom(runner_->tick() + 1, lacking);
  s->window_at = absl::Now() + StoreBackoff(s->window_failures);
}

// Asks once. Counts the blocks that are `lacking` for want of room.
absl::Status StepLoop::FetchWindow(Sequence* s, uint32_t* lacking) {
  std::vector<BlockName> names;
  std::vector<uint32_t> chunks;
  const auto end = static_cast<uint32_t>(s->hashes.size());
  for (uint32_t chunk : MandatoryChunks(shapes_.prefill, end)) {
    for (uint32_t layer = 0; chunk < end && layer < model_.geometry.layers; ++layer) {
      if (s->blocks.Find(chunk, layer) != nullptr) continue;
      names.push_back({s->hashes[chunk], layer});
      chunks.push_back(chunk);
    }
  }
  if (names.empty()) return absl::OkStatus();
  const RequestScope scope(s->request->id);
  HGA_ASSIGN_OR_RETURN(auto fetched, store_->Fetch(names));
  if (fetched.size() != names.size()) return absl::InternalError("kv_store answered for another number of blocks");
  absl::Status result;
  for (size_t i = 0; i < names.size(); ++i) {
    const absl::Status& status = fetched[i].status;
    if (status.ok()) {
      s->blocks.Put(chunks[i], names[i].layer, std::move(fetched[i].block), runner_->tick());
    } else if (BlockIsGone(status)) {
      s->cut_to = std::min(s->cut_to.value_or(chunks[i]), chunks[i]);
    } else {
      *lacking += absl::IsResourceExhausted(status);
      if (result.ok() || absl::IsResourceExhausted(result)) result = status;
    }
  }
  return result;
}

}  // namespace hga
