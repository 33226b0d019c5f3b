// Selections asked a layer ahead. While a layer is attended and its MLP computed, the router scores queries that were
// guessed for the next one; what they select is fetched from the store and brought to the device. All of it is a hint:
// the layer asks again with its own queries, and attends what that selects.
#include <algorithm>
#include <iterator>
#include <utility>

#include "common/base/request_id.h"
#include "gpu_worker/engine/step_runner.h"

namespace hga {
namespace {

// Most blocks that are fetched for one layer's guess: a guess must not fill the arena.
constexpr size_t kMostEarlyBlocks = 64;

}  // namespace

void StepRunner::PostGuess(uint32_t layer) {
  guess_.blocks.clear();
  guess_.response.blocks.clear();
  if (early_ == nullptr || layer >= geometry_.layers || router_.client == nullptr || router_blocks_.empty()) return;
  if (!router_blocks_[0]->part->sequence->decoding()) return;  // a step's parts are all alike
  const bf16* queries = backend_->GuessQueries(layer);
  if (queries == nullptr) return;
  const size_t heads = rows_.size() * geometry_.query_heads;
  guess_.queries.assign(queries, queries + heads * geometry_.head_dim);
  guess_.attended.assign(attended_, attended_ + heads);  // this layer's: the best guess there is
  guess_.request.step = step_;
  guess_.request.layer = layer;
  guess_.request.blocks.clear();
  for (Block* block : router_blocks_) {
    if (!block->part->status.ok()) continue;
    guess_.request.blocks.push_back(RouteOf(layer, guess_.queries.data(), guess_.attended.data(), block));
    guess_.request.blocks.back().residual = false;
    guess_.blocks.push_back(block);
  }
  if (guess_.blocks.empty()) return;
  const absl::Status status = router_.client->Post(guess_.request);
  guess_.posted = status.ok();
  if (!status.ok()) LoseRouter(status);
}

absl::Status StepRunner::FollowGuess(uint32_t layer) {
  if (guess_.blocks.empty()) return absl::OkStatus();
  StepTrace::Span span(trace_, "early_selection");
  WaitGuess();
  FetchForGuess(layer);
  return PrefetchForGuess(layer);
}

void StepRunner::WaitGuess() {
  if (!std::exchange(guess_.posted, false)) return;
  absl::Status status = router_.client->Wait(&guess_.response);
  if (status.ok() && guess_.response.blocks.size() != guess_.blocks.size()) {
    status = absl::DataLossError("the router answered for another number of blocks");
  }
  if (status.ok()) return;
  guess_.response.blocks.clear();
  LoseRouter(status);
}

// Chunks of what is guessed for a block: all of them, or those whose keys are not all in the key cache.
std::vector<uint32_t> StepRunner::ChunksGuessed(uint32_t layer, size_t i) {
  const std::vector<HeadSelection>& guessed = guess_.response.blocks[i];
  const Block& b = *guess_.blocks[i];
  if (!b.by_keys) return SelectedChunks(guessed);
  FoundKeys found;
  keys_->Find(layer, Finished(b), guessed, HeldBlocks(b, layer), &found);
  std::vector<uint32_t> chunks;
  for (const FoundKeys::Lacking& lacking : found.lacking) chunks.push_back(lacking.chunk);
  return chunks;
}

void StepRunner::FetchForGuess(uint32_t layer) {
  std::vector<EarlyFetch::Wanted> wanted;
  std::string requests;
  for (size_t i = 0; i < guess_.response.blocks.size(); ++i) {
    const Sequence& s = *guess_.blocks[i]->part->sequence;
    const size_t before = wanted.size();
    for (const uint32_t chunk : ChunksGuessed(layer, i)) {
      if (wanted.size() == kMostEarlyBlocks) break;
      if (chunk >= s.hashes.size() || s.blocks.Find(chunk, layer) != nullptr) continue;
      wanted.push_back({s.id, chunk, {s.hashes[chunk], layer}});
    }
    if (wanted.size() > before) requests = JoinRequestIds(std::move(requests), s.request->id);
  }
  if (!wanted.empty()) early_->Start(std::move(wanted), std::move(requests));
}

// What is held already; the rest is on its way to the host.
absl::Status StepRunner::PrefetchForGuess(uint32_t layer) {
  if (guess_.response.blocks.empty() || !backend_->can_prefetch()) return absl::OkStatus();
  AttendPlan plan;
  for (size_t i = 0; i < guess_.response.blocks.size(); ++i) {
    const Block& b = *guess_.blocks[i];
    const BlockSet& held = b.part->sequence->blocks;
    std::vector<HeadSelection> readable(geometry_.kv_heads);
    for (uint32_t h = 0; h < geometry_.kv_heads; ++h) {
      const HeadSelection& head = guess_.response.blocks[i][h];
      std::copy_if(head.begin(), head.end(), std::back_inserter(readable[h]),
                   [&](const SelectedChunk& s) { return held.Find(s.chunk, layer) != nullptr; });
    }
    QueryBlock& block = plan.blocks.emplace_back();
    PlanRouted(*b.shape, b.first_row, b.rows, readable,
               [&](uint32_t chunk) -> const void* { return held.Find(chunk, layer); }, &block);
    block.finished = Finished(b);
  }
  return backend_->Prefetch(layer, plan);
}

// Once the layer's own selections are there.
void StepRunner::TakeEarlyBlocks(uint32_t layer) {
  if (early_ == nullptr) return;
  for (size_t i = 0; i < guess_.response.blocks.size(); ++i) {
    const std::vector<HeadSelection>& guessed = guess_.response.blocks[i];
    counts_.early_keys += SelectedKeys(1, guessed);
    if (guess_.blocks[i]->selection == nullptr) continue;
    counts_.early_used_keys += KeysInCommon(guessed, *guess_.blocks[i]->selection);
  }
  for (EarlyFetch::Got& got : early_->Take()) {
    const auto at = std::find_if(guess_.blocks.begin(), guess_.blocks.end(),
                                 [&](const Block* b) { return b->part->sequence->id == got.wanted.sequence_id; });
    if (at == guess_.blocks.end()) continue;
    Block& b = **at;
    std::vector<uint32_t> chunks;
    if (b.selection != nullptr) chunks = SelectedChunks(*b.selection);
    ++counts_.early_blocks;
    counts_.early_used_blocks += std::binary_search(chunks.begin(), chunks.end(), got.wanted.chunk);
    BlockSet& held = b.part->sequence->blocks;
    if (held.Find(got.wanted.chunk, layer) != nullptr) continue;
    held.Put(got.wanted.chunk, layer, std::move(got.block), tick_);
    KeepOrGiveBack(&b, got.wanted.chunk, kAllHeads);
  }
  guess_.response.blocks.clear();
}

void StepRunner::DropGuess() {
  if (early_ == nullptr) return;
  if (std::exchange(guess_.posted, false) && router_.client != nullptr) (void)router_.client->Wait(&guess_.response);
  guess_.response.blocks.clear();
  guess_.blocks.clear();
  (void)early_->Take();
}

}  // namespace hga
