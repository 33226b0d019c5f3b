// Room in the arena: what sequences reserve ahead, and what they give back where the store is short.
#include <algorithm>
#include <tuple>
#include <utility>

#include "gpu_worker/engine/step_loop.h"
#include "gpu_worker/engine/store_retry.h"

namespace hga {

// Gives reserved blocks to the chunks that the next `rows` tokens are written to.
bool StepLoop::Cover(Sequence* s, uint32_t rows) {
  const uint32_t chunk_tokens = model_.geometry.chunk_tokens;
  for (uint32_t chunk = s->computed / chunk_tokens; chunk <= (s->computed + rows - 1) / chunk_tokens; ++chunk) {
    if (s->blocks.HasChunk(chunk)) continue;
    if (s->spare.empty()) return false;
    s->blocks.PutChunk(chunk, std::move(s->spare.front()), runner_->tick());
    s->spare.pop_front();
  }
  return true;
}

void StepLoop::OnReserved(Sequence* s, SealerEvent event) {
  --s->reserves_pending;
  if (event.status.ok()) {
    s->reserve_failures = 0;
    s->spare.push_back(std::move(event.blocks));
    return;
  }
  if (!absl::IsResourceExhausted(event.status) || ++s->reserve_failures > kStoreAttempts) {
    if (s->runs()) End(s, ExplainShortage(event.status));
    return;
  }
  MakeRoom(runner_->tick() + 1, model_.geometry.layers);
  s->reserve_at = absl::Now() + StoreBackoff(s->reserve_failures);
}

// Asks for the blocks of the tokens to come before they are needed.
void StepLoop::ReserveAhead(Sequence* s) {
  if (!s->runs() || absl::Now() < s->reserve_at || s->cut_to.has_value() || s->window_lost) return;
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

uint64_t StepLoop::BlocksOfAll() const {
  uint64_t chunks = 0;
  for (const SequencePtr& s : active_) chunks += s->computed / model_.geometry.chunk_tokens;
  return chunks * model_.geometry.layers;
}

// Slots that are kept from layer to layer.
uint64_t StepLoop::InArena() const {
  uint64_t slots = keys_ == nullptr ? 0 : keys_->arena_pages();
  for (const SequencePtr& s : active_) slots += s->blocks.size();
  return slots;
}

// A step asks for blocks and there is no slot: what is kept is all there is room for, or too much.
void StepLoop::NoteShortage() {
  room_blocks_ = ShortOfRoom() ? std::min(room_blocks_, InArena()) : InArena();
  most_room_ = std::max(most_room_, room_blocks_);
  pages_refused_ = false;
}

// Slots that blocks and pages of keys may still take, where room is short. Others stay for what comes and goes again: a
// layer's blocks at least.
int64_t StepLoop::RoomToKeep() const {
  const uint64_t passing = std::max(room_blocks_ / 8, BlocksOfAll() / model_.geometry.layers);
  return static_cast<int64_t>(room_blocks_ + runner_->passing_blocks()) - static_cast<int64_t>(passing + InArena());
}

// Its step found no room: the same rows are computed again, after steps of others.
void StepLoop::WaitForRoom(Sequence* s, const absl::Status& status) {
  if (++s->room_failures > kStoreAttempts) return End(s, status);
  s->room_at = absl::Now() + StoreBackoff(s->room_failures);
}

// For keys that find no room: a slot full of keys that were selected serves more of them than a block does. So the
// cache takes what blocks have, those first that were not used for longest.
std::vector<HeldBlock> StepLoop::PagesForKeys(uint32_t count) {
  if (pages_refused_) return {};
  int64_t lacking = count - RoomToKeep();
  if (lacking > 0) lacking -= ReleaseBlocks(runner_->tick(), static_cast<uint32_t>(lacking), true);
  const int64_t most = count - std::max<int64_t>(lacking, 0);
  pages_refused_ = most <= 0;
  if (pages_refused_) return {};
  auto pages = store_->Reserve(static_cast<uint32_t>(most));
  if (!pages.ok()) return {};  // what was released may arrive later
  return *std::move(pages);
}

uint32_t StepLoop::GiveBackPages(uint32_t wanted) {
  if (keys_ == nullptr || keys_->arena_pages() == 0) return 0;
  const uint32_t given = keys_->GiveBack(wanted);
  pages_refused_ = true;
  metrics_->CountGivenBack(given);
  return given;
}

// When nothing else is left: pages of the key cache, then what was reserved ahead, and the store's own blocks of chunks
// that are here as well.
uint32_t StepLoop::MakeRoom(uint64_t tick, uint32_t wanted, bool passing) {
  if (const uint32_t released = ReleaseBlocks(tick, wanted, passing); released > 0) return released;
  if (const uint32_t released = GiveBackPages(wanted); released > 0) return released;
  uint32_t released = 0;
  for (const SequencePtr& s : active_) {
    released += static_cast<uint32_t>(s->spare.size()) * model_.geometry.layers;
    s->spare.clear();
  }
  std::lock_guard<std::mutex> lock(mu_);
  for (SealerEvent& event : answers_) {
    const bool reserved = event.kind == SealerEvent::Kind::kReserved && event.status.ok();
    if (!reserved && event.kind != SealerEvent::Kind::kDuplicate) continue;
    released += static_cast<uint32_t>(event.blocks.size());
    event.blocks.clear();
    if (reserved) event.status = absl::ResourceExhaustedError("given up for blocks that a step needed");
  }
  return released;
}

// Least recently used first. Never of a sink or window, nor what the layer at `tick` uses.
uint32_t StepLoop::ReleaseBlocks(uint64_t tick, uint32_t wanted, bool passing) {
  struct Candidate {
    BlockSet::Use use;
    Sequence* sequence;
  };
  std::vector<Candidate> candidates;
  for (const SequencePtr& s : active_) {
    const ChunkRange optional = OptionalChunks(shapes_.prefill, s->computed / model_.geometry.chunk_tokens);
    if (optional.empty()) continue;
    for (const BlockSet::Use& use : s->blocks.Held(optional.first, optional.end)) {
      if (use.last_step < tick) candidates.push_back({use, s.get()});
    }
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return std::tie(a.use.last_step, a.sequence->id, a.use.chunk, a.use.layer) <
           std::tie(b.use.last_step, b.sequence->id, b.use.chunk, b.use.layer);
  });
  // Down to what may stay; where what comes stays held a quarter at least, else each layer would come back for more.
  const size_t least = passing ? static_cast<size_t>(std::max<int64_t>(-RoomToKeep(), 0)) : candidates.size() / 4;
  const size_t count = std::min(candidates.size(), std::max<size_t>(wanted, least));
  for (size_t i = 0; i < count; ++i) {
    candidates[i].sequence->blocks.Release(candidates[i].use.chunk, candidates[i].use.layer);
  }
  metrics_->CountGivenBack(count);
  return static_cast<uint32_t>(count);
}

}  // namespace hga
