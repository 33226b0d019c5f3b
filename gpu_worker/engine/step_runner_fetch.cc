// Blocks that a layer's selections name and that are not held.
#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/numeric/bits.h"
#include "absl/time/clock.h"
#include "common/base/request_id.h"
#include "gpu_worker/engine/step_runner.h"
#include "gpu_worker/engine/store_retry.h"

namespace hga {
namespace {

// How long a layer waits for room without getting any: as long as the step has taken so far, which is what a part that
// gives up has to compute again, within these limits.
constexpr absl::Duration kLeastWait = absl::Milliseconds(20), kMostWait = absl::Seconds(2);

}  // namespace

bool StepRunner::Probed(const Block& block, uint32_t layer) {
  const Sequence& s = *block.part->sequence;
  return s.request->probe != nullptr && s.request->probe->layer == layer && s.decoding();
}

// Of the routed range.
std::vector<uint32_t> StepRunner::ChunksRead(const Block& block, uint32_t layer) {
  if (!Probed(block, layer)) return SelectedChunks(*block.selection);
  std::vector<uint32_t> all(block.routed.end - block.routed.first);
  std::iota(all.begin(), all.end(), block.routed.first);
  return all;
}

// Touches what is held; the distinct blocks that are not. What there is no room to hold is asked for by the KV heads
// that lack keys.
std::vector<StepRunner::Wanted> StepRunner::FindMissing(uint32_t layer) {
  std::vector<Wanted> missing;
  absl::flat_hash_map<std::pair<Sequence*, uint32_t>, size_t> seen;  // its place in `missing`
  const bool by_heads = keys_ != nullptr && short_of_room_ && !room_.may_hold(1);
  for (Block& b : blocks_) {
    if (b.selection == nullptr || !b.part->status.ok()) continue;
    Sequence* s = b.part->sequence;
    for (uint32_t chunk : ChunksRead(b, layer)) {
      const bool here = s->blocks.Find(chunk, layer) != nullptr;
      uint64_t heads = kAllHeads;
      if (!here && b.by_keys) {
        const auto lacking = b.found.Find(chunk);
        if (lacking == b.found.lacking.end()) {
          ++s->stats.tiers.keys;
          ++counts_.keys;
          continue;
        }
        if (by_heads) heads = lacking->heads;
      }
      if (blocks_.size() > 1) {
        const auto [at, is_new] = seen.try_emplace({s, chunk}, missing.size());
        if (!is_new && !here) missing[at->second].heads |= heads;
        if (!is_new) continue;
      }
      if (!here) {
        missing.push_back({&b, chunk, heads});
      } else {
        s->blocks.Touch(chunk, layer, tick_);
        ++s->stats.tiers.held;
        ++counts_.held;
      }
    }
  }
  return missing;
}

void StepRunner::FetchMissing(uint32_t layer) {
  std::vector<Wanted> wanted = FindMissing(layer);
  if (wanted.empty()) return;
  const absl::Time begin = absl::Now();
  const absl::Duration patience = std::min(std::max(begin - began_, kLeastWait), kMostWait);
  absl::Status status = FetchOnce(layer, &wanted);
  absl::Duration waited;
  for (int attempt = 0; !wanted.empty() && absl::IsResourceExhausted(status) && waited < patience; ++attempt) {
    const size_t before = wanted.size();
    short_of_room_ = true;
    const bool passing = std::all_of(wanted.begin(), wanted.end(), [](const Wanted& w) { return w.block->by_keys; });
    room_.make(tick_, static_cast<uint32_t>(before), passing);
    absl::SleepFor(StoreBackoff(attempt));
    status = FetchOnce(layer, &wanted);
    waited = wanted.size() < before ? absl::ZeroDuration() : waited + StoreBackoff(attempt);
  }
  metrics_->ObserveFetch(absl::ToDoubleSeconds(absl::Now() - begin));
  for (const Wanted& w : wanted) {
    w.block->part->status = ExplainShortage(status);
    w.block->part->no_room = absl::IsResourceExhausted(status);
  }
}

// Of a block's other heads.
uint64_t StepRunner::BytesWithout(uint64_t heads) const {
  if (heads == kAllHeads) return 0;
  return geometry_.block_bytes() / geometry_.kv_heads * (geometry_.kv_heads - absl::popcount(heads));
}

// Takes what was got, and what was lost, out of `wanted`.
absl::Status StepRunner::FetchOnce(uint32_t layer, std::vector<Wanted>* wanted) {
  std::vector<BlockHeads> blocks;
  std::set<Sequence*> asking;
  for (const Wanted& w : *wanted) {
    blocks.push_back({{w.block->part->sequence->hashes[w.chunk], layer}, w.heads});
    asking.insert(w.block->part->sequence);
  }
  std::string requests;
  for (Sequence* s : asking) {
    s->stats.kv_rpcs_decode += s->answering();
    requests = JoinRequestIds(std::move(requests), s->request->id);
  }
  const RequestScope scope(std::move(requests));
  auto fetched = store_->FetchHeads(blocks);
  if (!fetched.ok()) return fetched.status();
  if (fetched->size() != blocks.size()) return absl::InternalError("kv_store answered for another number of blocks");
  std::vector<Wanted> left;
  absl::Status result;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Wanted& w = (*wanted)[i];
    Sequence* s = w.block->part->sequence;
    FetchedBlock& got = (*fetched)[i];
    if (got.status.ok()) {
      const bool disk = got.found_in == FoundIn::kDisk;
      ++(disk ? s->stats.tiers.disk : s->stats.tiers.ram);
      ++(disk ? counts_.disk : counts_.ram);
      if (disk) counts_.spared_bytes += BytesWithout(w.heads);
      s->blocks.Put(w.chunk, layer, std::move(got.block), tick_);
      KeepOrGiveBack(w.block, w.chunk, w.heads);
    } else if (BlockIsGone(got.status)) {
      StepPart* part = w.block->part;
      part->status = got.status;
      part->lost_chunk = std::min(part->lost_chunk.value_or(w.chunk), w.chunk);
    } else {
      left.push_back(w);
      result = got.status;
    }
  }
  wanted->swap(left);
  return result;
}

}  // namespace hga
