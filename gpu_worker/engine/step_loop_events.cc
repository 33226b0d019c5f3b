#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/request_id.h"
#include "common/base/status.h"
#include "gpu_worker/engine/step_loop.h"
#include "gpu_worker/engine/store_retry.h"

namespace hga {
namespace {

// A store that loses chunks faster than they are computed is broken.
constexpr int kMaxCuts = 4;

void LogEnd(const Sequence& s) {
  const RequestScope scope(s.request->id);
  const RequestStats& stats = s.stats;
  LogInfo("request ended", {{"code", absl::StatusCodeToString(s.end.code())},
                            {"seconds", absl::ToDoubleSeconds(absl::Now() - s.accepted)},
                            {"ttft_s", stats.ttft_s},
                            {"prompt_tokens", stats.prompt_tokens},
                            {"reused_tokens", stats.reused_tokens},
                            {"generated_tokens", stats.completion_tokens},
                            {"attended", stats.attended_fraction(true)},
                            {"dense_fallback_steps", stats.dense_fallback_steps}});
}

}  // namespace

// The part's next token, of the step's logits.
absl::StatusOr<uint32_t> StepLoop::Sample(const StepPart& part) {
  Sequence* s = part.sequence;
  const size_t width = logits_.top_count > 0 ? logits_.top_count : model_.vocab_size, at = part.logits_row * width;
  if ((logits_.top_count > 0 ? logits_.top.size() : logits_.all.size()) < at + width) {
    return absl::InternalError("logits are missing");
  }
  if (logits_.top_count > 0) {
    const auto top = absl::MakeConstSpan(logits_.top).subspan(at, width);
    HGA_RETURN_IF_ERROR(CheckTopLogits(top));
    if (const auto token = s->sampler.SampleTop(top, logits_.masses[part.logits_row])) return *token;
  }
  if (logits_.all.empty()) HGA_RETURN_IF_ERROR(runner_->TakeAllLogits(&logits_));
  const auto logits = absl::MakeSpan(logits_.all).subspan(size_t{part.logits_row} * model_.vocab_size, model_.vocab_size);
  HGA_RETURN_IF_ERROR(CheckLogits(logits));
  return s->sampler.Sample(logits, s->tokens);
}

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

void StepLoop::OnReserved(Sequence* s, SealerEvent event) {
  --s->reserves_pending;
  if (event.status.ok()) {
    s->reserve_failures = 0;
    s->spare.push_back(std::move(event.blocks));
    return;
  }
  if (!absl::IsResourceExhausted(event.status) || ++s->reserve_failures > kStoreAttempts) {
    if (s->state == Sequence::State::kRunning) {
      const char* const hint =
          "; the arena is too small for what is under way: try again later, or raise --arena_bytes";
      End(s, absl::IsResourceExhausted(event.status)
                 ? absl::ResourceExhaustedError(absl::StrCat(std::string(event.status.message()), hint))
                 : event.status);
    } else if (s->state == Sequence::State::kFlushing) {
      s->state = Sequence::State::kEnding;
    }
    return;
  }
  MakeRoom(runner_->tick() + 1, model_.geometry.layers);
  s->reserve_at = absl::Now() + StoreBackoff(s->reserve_failures);
}

// Asks for the blocks of the tokens to come before they are needed.
void StepLoop::ReserveAhead(Sequence* s) {
  const bool runs = s->state == Sequence::State::kRunning || s->state == Sequence::State::kFlushing;
  if (!runs || absl::Now() < s->reserve_at || s->cut_to.has_value()) return;
  const uint32_t chunk_tokens = model_.geometry.chunk_tokens;
  const auto size = static_cast<uint32_t>(s->tokens.size());
  const uint64_t asked = uint64_t{s->prompt_tokens} + s->request->max_tokens;
  const auto longest = static_cast<uint32_t>(std::min<uint64_t>(asked, model_.context_tokens));
  // Decoding: the next chunk from the middle of this one on. Prefill: this batch and the next.
  const uint32_t ahead = s->decoding() ? chunk_tokens / 2 : 2 * options_.prefill_batch_tokens;
  uint32_t end = std::min(s->computed + ahead, s->decoding() ? longest : std::max(s->target(chunk_tokens), 1u));
  end = std::max(end, std::min(s->computed + 1, size));
  uint32_t wanted = 0;
  for (uint32_t chunk = s->computed / chunk_tokens; chunk * chunk_tokens < end; ++chunk) {
    wanted += !s->blocks.HasChunk(chunk);
  }
  // One at a time while the store is short of room.
  if (s->reserve_failures > 0) wanted = std::min(wanted, static_cast<uint32_t>(s->spare.size()) + 1);
  while (s->spare.size() + s->reserves_pending < wanted) {
    ++s->reserves_pending;
    sealer_->Reserve(s->id);
  }
}

void StepLoop::OnDuplicate(Sequence* s, SealerEvent event) {
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
  if (s->state == Sequence::State::kRunning) End(s, event.status);
  if (s->state == Sequence::State::kFlushing) s->state = Sequence::State::kEnding;
}

// Last: `s` is gone afterwards.
void StepLoop::OnClosed(Sequence* s, const absl::Status& saved) {
  EngineEvent event;
  event.status = s->end;
  if (!saved.ok()) Warn(s, absl::StrCat("the session was not saved: ", std::string(saved.message())));
  if (s->end.ok()) {
    event.kind = EngineEvent::Kind::kFinished;
    event.reason = s->reason;
    if (s->reason == FinishReason::kPrefillOnly) s->stats.prefill_s = absl::ToDoubleSeconds(absl::Now() - s->started);
    event.stats = s->stats;
    metrics_->ObserveEnd(s->reason, absl::ToDoubleSeconds(absl::Now() - s->accepted), s->stats);
  } else {
    metrics_->CountFailure(s->end.code());
  }
  LogEnd(*s);
  const auto events = s->events;
  active_.erase(std::find_if(active_.begin(), active_.end(), [&](const SequencePtr& p) { return p.get() == s; }));
  {
    std::lock_guard<std::mutex> lock(mu_);
    --live_;
  }
  events->Push(std::move(event));
}

// Falls back to dense attention when the router that knows the sequence is gone, and joins a new one.
void StepLoop::FollowRouter(Sequence* s) {
  const bool runs = s->state == Sequence::State::kRunning || s->state == Sequence::State::kFlushing;
  if (!runs || !s->request->routed) return;
  const RouterLink::Attachment now = link_->current();
  const bool known = now.client != nullptr && now.generation == s->route_generation;
  if (!s->fallback && !known) s->fallback = true;
  if (!s->fallback || s->reattaching || now.client == nullptr || now.generation == s->refused_generation) return;
  s->reattaching = true;
  sealer_->Reattach(s->id);
}

// Goes back to the chunk that the store lost and computes again from the token ids.
void StepLoop::CutBack(Sequence* s) {
  if (!s->cut_to.has_value() || s->seals_pending > 0 || s->state == Sequence::State::kEnding) return;
  const uint32_t chunk = *s->cut_to;
  s->cut_to.reset();
  if (++s->cuts > kMaxCuts) return End(s, absl::DataLossError("kv_store keeps losing blocks of this sequence"));
  const uint64_t lost = (s->hashes.size() - chunk) * uint64_t{model_.geometry.layers};
  s->stats.tiers.recomputed += lost;
  metrics_->CountBlocks(EngineMetrics::Tier::kMiss, lost);
  metrics_->CountCutBack();
  Warn(s, "blocks were lost by the store and computed again");
  s->hashes.resize(chunk);
  s->committed = std::min(s->committed, chunk);
  s->computed = chunk * model_.geometry.chunk_tokens;
  s->stats.reused_tokens = std::min(s->stats.reused_tokens, s->computed);
  s->acked = 0;  // until the router has opened the shorter sequence
  s->reattaching = s->request->routed;
  s->blocks.DropFrom(chunk);
  sealer_->CutBack(s->id, chunk);
  RestoreWindow(s);
}

// After a cut the window lies where blocks may have been released.
void StepLoop::RestoreWindow(Sequence* s) {
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
  if (names.empty()) return;
  const RequestScope scope(s->request->id);
  auto fetched = store_->Fetch(names);
  if (!fetched.ok()) return End(s, fetched.status());
  for (size_t i = 0; i < fetched->size() && i < names.size(); ++i) {
    const absl::Status& status = (*fetched)[i].status;
    if (status.ok()) {
      s->blocks.Put(chunks[i], names[i].layer, std::move((*fetched)[i].block), runner_->tick());
    } else if (BlockIsGone(status)) {
      s->cut_to = std::min(s->cut_to.value_or(chunks[i]), chunks[i]);
    } else {
      return End(s, status);
    }
  }
}

}  // namespace hga
