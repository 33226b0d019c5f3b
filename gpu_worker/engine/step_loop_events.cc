// Answers of the sealer.
#include <algorithm>
#include <utility>

#include "gpu_worker/engine/step_loop.h"

namespace hga {

void StepLoop::Handle(SealerEvent event) {
  const auto found = std::find_if(active_.begin(), active_.end(),
                                  [&](const SequencePtr& s) { return s->id == event.sequence_id; });
  if (found == active_.end()) return;
  Sequence* s = found->get();
  switch (event.kind) {
    case SealerEvent::Kind::kOpened: return OnOpened(s, std::move(event));
    case SealerEvent::Kind::kReserved: return OnReserved(s, std::move(event));
    case SealerEvent::Kind::kDuplicate: return OnDuplicate(s, std::move(event));
    case SealerEvent::Kind::kCommitted: return OnCommitted(s, std::move(event));
    case SealerEvent::Kind::kRouted:
      if (event.reattach) s->reattaching = s->fallback = false;
      s->route_generation = event.generation;
      s->acked = event.acked;
      return;
    case SealerEvent::Kind::kRouteLost:
      if (event.reattach) s->reattaching = false;
      s->fallback = true;
      s->refused_generation = event.generation;
      return;
    case SealerEvent::Kind::kClosed: return OnClosed(s, event.status);
  }
}

void StepLoop::OnOpened(Sequence* s, SealerEvent event) {
  if (!event.status.ok()) {
    s->end = event.status;
    return OnClosed(s, absl::OkStatus());
  }
  const uint32_t chunk_tokens = model_.geometry.chunk_tokens;
  s->tokens = std::move(event.opened->tokens);
  s->hashes = std::move(event.opened->hashes);
  s->prompt_tokens = static_cast<uint32_t>(s->tokens.size());
  s->committed = static_cast<uint32_t>(s->hashes.size());
  s->computed = s->committed * chunk_tokens;
  for (StartBlock& b : event.opened->blocks) s->blocks.Put(b.chunk, b.layer, std::move(b.block), runner_->tick());
  s->acked = event.acked;
  s->route_generation = event.generation;
  s->fallback = s->request->routed && !event.at_router;
  if (s->fallback) s->refused_generation = event.generation;
  s->started = absl::Now();
  s->stats.prompt_tokens = s->prompt_tokens;
  s->stats.reused_tokens = s->computed;
  s->stats.tiers = event.opened->tiers;
  metrics_->CountBlocks(EngineMetrics::Tier::kRam, s->stats.tiers.ram);
  metrics_->CountBlocks(EngineMetrics::Tier::kDisk, s->stats.tiers.disk);
  metrics_->CountBlocks(EngineMetrics::Tier::kMiss, s->stats.tiers.recomputed);
  metrics_->ObserveStart(absl::ToDoubleSeconds(s->started - s->accepted), s->prompt_tokens, s->computed);
  s->state = Sequence::State::kRunning;
  EngineEvent started;
  started.kind = EngineEvent::Kind::kStarted;
  started.stats = s->stats;
  s->events->Push(std::move(started));
  if (NextRows(*s) == 0) End(s, absl::OkStatus(), FinishReason::kPrefillOnly);
}

void StepLoop::OnDuplicate(Sequence* s, SealerEvent event) {
  if (event.blocks.empty()) {  // given up by MakeRoom
    return sealer_->FindAgain(s->id, event.chunk, *std::move(event.commit), Checkpoint(*s, event.chunk));
  }
  s->blocks.PutChunk(event.chunk, std::move(event.blocks), runner_->tick());
  sealer_->CommitDuplicate(s->id, event.chunk, *std::move(event.commit), Checkpoint(*s, event.chunk));
}

void StepLoop::OnCommitted(Sequence* s, SealerEvent event) {
  --s->seals_pending;
  if (event.status.ok()) {
    s->blocks.PutChunk(event.chunk, std::move(event.blocks), 0);
    s->committed = std::max(s->committed, event.chunk + 1);
    return;
  }
  if (event.blocks.size() == model_.geometry.layers) s->blocks.PutChunk(event.chunk, std::move(event.blocks), 0);
  if (s->runs()) End(s, event.status);
}

}  // namespace hga
