#include "gpu_worker/engine/key_cache.h"

#include <algorithm>
#include <cstring>

#include "absl/numeric/bits.h"

namespace hga {
namespace {

constexpr size_t kPageBytes = size_t{1} << 20;

uint32_t SlotsFor(uint64_t bytes, const KvGeometry& g) {
  // Of a slot: its owner, its step, and up to 16/7 entries of the table, which grows by doubling.
  constexpr uint64_t kBookkeeping = 20 + 4 + 25 * 16 / 7;
  const uint64_t slots = bytes / (uint64_t{g.head_dim} * 2 * g.element_bytes() + g.scale_bytes() + kBookkeeping);
  return static_cast<uint32_t>(std::min<uint64_t>(slots, FoundKeys::kInBlock - 1));
}

// Calls each(selected, first): the selection's chunks in order, and which of its keys is the chunk's first.
template <typename Each>
void ForEachSelected(const HeadSelection& head, size_t* first, const Each& each) {
  for (const SelectedChunk& selected : head) {
    each(selected, *first);
    *first += absl::popcount(selected.mask);
  }
}

template <typename Each>
void ForEachToken(uint64_t mask, const Each& each) {
  for (; mask != 0; mask &= mask - 1) each(static_cast<uint32_t>(absl::countr_zero(mask)));
}

void SetPlace(const KvPlace& place, KvRun* run) {
  run->k = place.k;
  run->v = place.v;
}

}  // namespace

size_t KeyCache::HashOfKey::operator()(const Key& key) const {
  uint64_t name;  // a hash already
  std::memcpy(&name, key.chunk.bytes.data(), sizeof(name));
  name = (name + key.place) * 0x9e3779b97f4a7c15u;
  return name ^ name >> 32;
}

KeyCache::KeyCache(const KvGeometry& geometry, uint64_t bytes)
    : geometry_(geometry), row_bytes_(geometry.row_stride() * geometry.element_bytes()),
      value_bytes_(geometry.scale_bytes() > 0 ? 0 : row_bytes_), slots_(SlotsFor(bytes, geometry)) {}

void KeyCache::BeginStep() {
  ++step_;
  looked_ = 0;
  BeginLayer();
}

void KeyCache::BeginLayer() {
  for (size_t i = 0; i < pages_.size() && i <= page_; ++i) pages_[i].used = 0;
  page_ = 0;
}

void KeyCache::Find(uint32_t layer, absl::Span<const ChunkHash> names, const std::vector<HeadSelection>& selection,
                    const BlockOfChunk& block, FoundKeys* found) {
  found->slots.clear();
  found->chunks.clear();
  found->cached = found->copied = 0;
  const auto looked_for = [&](const SelectedChunk& selected) {
    return block(selected.chunk) == nullptr && selected.chunk < names.size();
  };
  for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
    for (const SelectedChunk& selected : selection[head]) {
      if (!looked_for(selected)) continue;
      ForEachToken(selected.mask, [&](uint32_t token) {
        slot_of_.prefetch(Key{names[selected.chunk], PlaceOf(layer, head, token)});
      });
    }
    for (const SelectedChunk& selected : selection[head]) {
      const size_t keys = absl::popcount(selected.mask), first = found->slots.size();
      found->slots.resize(first + keys, FoundKeys::kInBlock);
      if (block(selected.chunk) != nullptr) continue;
      uint64_t here = 0;
      if (selected.chunk < names.size()) {
        uint32_t* slot = &found->slots[first];
        ForEachToken(selected.mask, [&](uint32_t token) {
          const auto at = slot_of_.find(Key{names[selected.chunk], PlaceOf(layer, head, token)});
          if (at != slot_of_.end()) {
            *slot = at->second;
            last_used_[*slot] = step_;
            ++here;
          }
          ++slot;
        });
      }
      found->cached += here;
      if (here < keys) found->chunks.push_back(selected.chunk);
    }
  }
  std::sort(found->chunks.begin(), found->chunks.end());
  found->chunks.erase(std::unique(found->chunks.begin(), found->chunks.end()), found->chunks.end());
}

void KeyCache::Fill(uint32_t layer, absl::Span<const ChunkHash> names, const std::vector<HeadSelection>& selection,
                    const BlockOfChunk& block, FoundKeys* found) {
  if (found->chunks.empty()) return;
  size_t at = 0;
  for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
    ForEachSelected(selection[head], &at, [&](const SelectedChunk& selected, size_t first) {
      if (selected.chunk >= names.size()) return;
      if (!std::binary_search(found->chunks.begin(), found->chunks.end(), selected.chunk)) return;
      const void* const data = block(selected.chunk);
      uint32_t* slot = &found->slots[first];
      ForEachToken(selected.mask, [&](uint32_t token) {
        if (*slot == FoundKeys::kInBlock) {
          *slot = Keep({names[selected.chunk], PlaceOf(layer, head, token)},
                       PlaceInBlock(geometry_, data, head, token));
          found->copied += *slot != FoundKeys::kInBlock;
        }
        ++slot;
      });
    });
  }
}

KvPlace KeyCache::FirstAt(const uint8_t* k, const uint8_t* v) const {
  return {k, value_bytes_ > 0 ? v : k + geometry_.k_to_v()};
}

void KeyCache::CopyRow(const KvPlace& from, const KvPlace& to) const {
  std::memcpy(const_cast<void*>(to.k), from.k, row_bytes_);
  if (value_bytes_ > 0) std::memcpy(const_cast<void*>(to.v), from.v, value_bytes_);
}

uint32_t KeyCache::Keep(const Key& key, const KvPlace& from) {
  if (const auto at = slot_of_.find(key); at != slot_of_.end()) {  // another selection of this step has brought it
    last_used_[at->second] = step_;
    return at->second;
  }
  const uint32_t slot = FreeSlot();
  if (slot == FoundKeys::kInBlock) return slot;
  slot_of_.emplace(key, slot);
  owners_[slot] = key;
  last_used_[slot] = step_;
  CopyRow(from, PlaceOfSlot(slot));
  return slot;
}

// A step passes every slot once at most: what it uses after the hand has gone by stays used.
uint32_t KeyCache::FreeSlot() {
  if (owners_.size() < slots_) {
    if (k_ == nullptr) {
      k_.reset(new uint8_t[slots_ * row_bytes_]);  // not written here: pages are taken as they are used
      v_.reset(new uint8_t[slots_ * value_bytes_]);
      owners_.reserve(slots_);
      last_used_.reserve(slots_);
      slot_of_.reserve(slots_);
    }
    owners_.emplace_back();
    last_used_.push_back(0);
    return static_cast<uint32_t>(owners_.size() - 1);
  }
  for (; looked_ < slots_; ++looked_) {
    const uint32_t slot = hand_;
    hand_ = hand_ + 1 == slots_ ? 0 : hand_ + 1;
    if (last_used_[slot] + 1 >= step_) continue;
    ++looked_;
    slot_of_.erase(owners_[slot]);
    return slot;
  }
  return FoundKeys::kInBlock;
}

void KeyCache::Plan(const AttendShape& shape, uint32_t first_row, uint32_t rows,
                    const std::vector<HeadSelection>& selection, const BlockOfChunk& block, const FoundKeys& found,
                    QueryBlock* out) {
  size_t at = 0;
  const auto place = [&](uint32_t kv_head, uint32_t chunk, uint32_t token, KvRun* run) {
    PlaceRun(&found.slots[at], block(chunk), kv_head, token, run);
    at += run->tokens;
  };
  PlanPlaced(shape, first_row, rows, selection, place, out);
}

void KeyCache::PlaceRun(const uint32_t* slots, const void* block, uint32_t kv_head, uint32_t token, KvRun* run) {
  uint32_t in_block = 0, side_by_side = 1;
  for (uint32_t i = 0; i < run->tokens; ++i) {
    in_block += slots[i] == FoundKeys::kInBlock;
    side_by_side += i > 0 && slots[i] == slots[0] + i;
  }
  if (in_block == run->tokens) {
    SetPlace(PlaceInBlock(geometry_, block, kv_head, token), run);
  } else if (in_block == 0 && side_by_side == run->tokens) {
    SetPlace(PlaceOfSlot(slots[0]), run);
  } else {
    const uint8_t* const k = Gather(run->tokens * (row_bytes_ + value_bytes_));
    const KvPlace first = FirstAt(k, k + run->tokens * row_bytes_);
    for (uint32_t i = 0; i < run->tokens; ++i) {
      const bool here = slots[i] != FoundKeys::kInBlock;
      CopyRow(here ? PlaceOfSlot(slots[i]) : PlaceInBlock(geometry_, block, kv_head, token + i),
              PlaceAfter(geometry_, first, i));
    }
    SetPlace(first, run);
  }
}

// A run has a group's keys at most, so it fits a page.
uint8_t* KeyCache::Gather(size_t bytes) {
  if (page_ < pages_.size() && pages_[page_].used + bytes > kPageBytes) ++page_;
  if (page_ == pages_.size()) pages_.push_back({std::unique_ptr<uint8_t[]>(new uint8_t[kPageBytes]), 0});
  Page& page = pages_[page_];
  uint8_t* const data = page.data.get() + page.used;
  page.used += bytes;
  return data;
}

}  // namespace hga
