#include "gpu_worker/engine/key_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/numeric/bits.h"

namespace hga {
namespace {

constexpr size_t kScratchBytes = size_t{1} << 20;

// Bookkeeping: of a key its slot and its place in its chunk's list, with some to spare; of a chunk's KV head its list
// and its entry in the table.
constexpr uint64_t kBytesOfSlot = 4 + 10, kBytesOfEntry = 180;
constexpr size_t kSpareInList = 8;

// Slots of the arena are taken until there is room for so many times the keys that a step asks for. With fewer many are
// thrown out that come back (docs/performance.md).
constexpr uint64_t kStepsOfKeys = 6;

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

uint64_t BitOf(uint32_t head) { return head < kMaskHeads ? uint64_t{1} << head : kAllHeads; }

// One entry for each chunk.
void Merge(std::vector<FoundKeys::Lacking>* lacking) {
  std::sort(lacking->begin(), lacking->end(), [](const auto& a, const auto& b) { return a.chunk < b.chunk; });
  size_t used = 0;
  for (const FoundKeys::Lacking& next : *lacking) {
    if (used > 0 && (*lacking)[used - 1].chunk == next.chunk) {
      (*lacking)[used - 1].heads |= next.heads;
    } else {
      (*lacking)[used++] = next;
    }
  }
  lacking->resize(used);
}

}  // namespace

std::vector<FoundKeys::Lacking>::iterator FoundKeys::Find(uint32_t chunk) {
  const auto at = std::lower_bound(lacking.begin(), lacking.end(), chunk,
                                   [](const Lacking& entry, uint32_t wanted) { return entry.chunk < wanted; });
  return at != lacking.end() && at->chunk == chunk ? at : lacking.end();
}

size_t KeyCache::HashOfName::operator()(const Name& name) const {
  uint64_t hash;  // a hash already
  std::memcpy(&hash, name.chunk.bytes.data(), sizeof(hash));
  hash = (hash + name.head) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 32;
}

KeyCache::Key* KeyCache::Keys::Find(uint32_t token) {
  return keys.data() + absl::popcount(mask & ((uint64_t{1} << token) - 1));
}

void KeyCache::Keys::Add(uint32_t token, const Key& key) {
  if (keys.size() == keys.capacity()) keys.reserve(keys.size() + kSpareInList);
  keys.insert(keys.begin() + (Find(token) - keys.data()), key);
  mask |= uint64_t{1} << token;
}

void KeyCache::Keys::Remove(uint32_t token) {
  keys.erase(keys.begin() + (Find(token) - keys.data()));
  mask &= ~(uint64_t{1} << token);
}

KeyCache::KeyCache(const KvGeometry& geometry, uint64_t bytes, KeyPages::FromArena from_arena)
    : geometry_(geometry), row_bytes_(geometry.row_bytes()),
      value_bytes_(geometry.scale_bytes() > 0 ? 0 : row_bytes_),
      pages_(geometry, bytes, kBytesOfSlot, std::move(from_arena)) {}

void KeyCache::BeginStep() {
  ++step_;
  looked_ = 0;
  asked_before_ = std::exchange(asked_, 0);
  pages_.BeginStep();
  BeginLayer();
}

void KeyCache::BeginLayer() {
  ++layer_;
  for (size_t i = 0; i < scratch_.size() && i <= filling_; ++i) scratch_[i].used = 0;
  filling_ = 0;
}

void KeyCache::Find(uint32_t layer, absl::Span<const ChunkHash> names, const std::vector<HeadSelection>& selection,
                    const BlockOfChunk& block, FoundKeys* found) {
  found->slots.clear();
  found->lacking.clear();
  found->cached = found->copied = 0;
  const auto finished = [&](const SelectedChunk& selected) { return selected.chunk < names.size(); };
  for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
    for (const SelectedChunk& selected : selection[head]) {
      if (block(selected.chunk) != nullptr || !finished(selected)) continue;
      table_.prefetch(NameOf(names[selected.chunk], layer, head));
    }
    for (const SelectedChunk& selected : selection[head]) {
      const size_t count = absl::popcount(selected.mask), first = found->slots.size();
      found->slots.resize(first + count, FoundKeys::kInBlock);
      if (block(selected.chunk) != nullptr) continue;
      uint64_t here = 0;
      Keys* const keys = finished(selected) ? KeysOf(NameOf(names[selected.chunk], layer, head)) : nullptr;
      if (keys != nullptr) {
        keys->used_in = layer_;
        uint32_t* slot = &found->slots[first];
        ForEachToken(selected.mask, [&](uint32_t token) {
          if ((keys->mask >> token & 1) != 0) {
            Key* const key = keys->Find(token);
            key->last_used = step_;
            *slot = key->slot;
            ++here;
          }
          ++slot;
        });
      }
      found->cached += here;
      asked_ += finished(selected) ? count : 0;
      if (here < count) found->lacking.push_back({selected.chunk, BitOf(head)});
    }
  }
  Merge(&found->lacking);
}

void KeyCache::Fill(uint32_t layer, absl::Span<const ChunkHash> names, const std::vector<HeadSelection>& selection,
                    const BlockOfChunk& block, FoundKeys* found) {
  if (found->lacking.empty()) return;
  size_t at = 0;
  for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
    ForEachSelected(selection[head], &at, [&](const SelectedChunk& selected, size_t first) {
      if (selected.chunk >= names.size()) return;
      const auto lacking = found->Find(selected.chunk);
      if (lacking == found->lacking.end() || (lacking->heads & BitOf(head)) == 0) return;
      const void* const data = block(selected.chunk);
      uint32_t* slot = &found->slots[first];
      ForEachToken(selected.mask, [&](uint32_t token) {
        if (*slot == FoundKeys::kInBlock) {
          *slot = Keep(NameOf(names[selected.chunk], layer, head), token, PlaceInBlock(geometry_, data, head, token));
          found->copied += *slot != FoundKeys::kInBlock;
        }
        ++slot;
      });
    });
  }
}

void KeyCache::CopyRow(const KvPlace& from, const KvPlace& to) const {
  std::memcpy(const_cast<void*>(to.k), from.k, row_bytes_);
  if (value_bytes_ > 0) std::memcpy(const_cast<void*>(to.v), from.v, value_bytes_);
}

KeyCache::Keys* KeyCache::KeysOf(const Name& name) {
  const auto at = table_.find(name);
  return at == table_.end() ? nullptr : &keys_[at->second];
}

KeyCache::Keys* KeyCache::OwnerOf(uint32_t slot) {
  return slots_[slot].owner == kNobody.owner ? nullptr : &keys_[slots_[slot].owner];
}

uint32_t KeyCache::Keep(const Name& name, uint32_t token, const KvPlace& from) {
  if (Keys* const keys = KeysOf(name); keys != nullptr && (keys->mask >> token & 1) != 0) {
    Key* const key = keys->Find(token);  // another selection of this step has brought it
    key->last_used = step_;
    return key->slot;
  }
  const uint32_t slot = FreeSlot();
  if (slot == FoundKeys::kInBlock) return slot;
  const auto [at, is_new] = table_.try_emplace(name, 0);
  if (is_new) {
    if (free_.empty()) {
      free_.push_back(static_cast<uint32_t>(keys_.size()));
      keys_.emplace_back();
    }
    at->second = free_.back();
    free_.pop_back();
    keys_[at->second].name = name;
  }
  Keys& keys = keys_[at->second];
  keys.Add(token, {slot, step_});
  keys.used_in = layer_;
  slots_[slot] = {at->second, token};
  CopyRow(from, pages_.PlaceOf(slot));
  return slot;
}

void KeyCache::Forget(uint32_t slot) {
  Keys* const keys = OwnerOf(slot);
  if (keys == nullptr) return;
  keys->Remove(slots_[slot].token);
  if (keys->mask == 0) {
    table_.erase(keys->name);
    free_.push_back(slots_[slot].owner);
    *keys = Keys();
  }
  slots_[slot] = kNobody;
}

// A step passes every slot once at most: what it uses after the hand has gone by stays used.
uint32_t KeyCache::FreeSlot() {
  if (spare_.empty() && !Grow(slots() < kStepsOfKeys * asked_before_)) {
    for (; looked_ < slots_.size(); ++looked_) {
      const uint32_t slot = hand_;
      hand_ = hand_ + 1 == slots_.size() ? 0 : hand_ + 1;
      Keys* const keys = OwnerOf(slot);
      if (keys == nullptr || keys->Find(slots_[slot].token)->last_used + 1 >= step_) continue;
      ++looked_;
      Forget(slot);
      return slot;
    }
    if (!Grow(true)) return FoundKeys::kInBlock;  // the step itself has no room
  }
  const uint32_t slot = spare_.back();
  spare_.pop_back();
  return slot;
}

bool KeyCache::Grow(bool from_arena) {
  if (slots_.size() >= kMostSlots) return false;
  const std::vector<uint32_t> pages = pages_.Grow(table_.size() * kBytesOfEntry, from_arena);
  const uint32_t keys = pages_.keys_per_page();
  for (const uint32_t page : pages) {
    if (slots_.size() < (page + 1) * keys) slots_.resize((page + 1) * keys, kNobody);
    for (uint32_t i = keys; i-- > 0;) spare_.push_back(page * keys + i);
  }
  return !pages.empty();
}

uint32_t KeyCache::GiveBack(uint32_t pages) {
  const uint32_t size = pages_.keys_per_page();
  std::vector<std::pair<uint64_t, uint32_t>> unused;  // by the layer that used it last
  for (const uint32_t page : pages_.ArenaPages()) {
    uint64_t used_in = 0;
    for (uint32_t slot = page * size; slot < (page + 1) * size; ++slot) {
      if (const Keys* keys = OwnerOf(slot); keys != nullptr) used_in = std::max(used_in, keys->used_in);
    }
    if (used_in != layer_) unused.push_back({used_in, page});
  }
  std::sort(unused.begin(), unused.end());
  unused.resize(std::min<size_t>(unused.size(), pages));
  for (const auto& [used_in, page] : unused) {
    for (uint32_t slot = page * size; slot < (page + 1) * size; ++slot) Forget(slot);
    pages_.GiveBack(page);
  }
  if (!unused.empty()) {
    spare_.erase(std::remove_if(spare_.begin(), spare_.end(), [this](uint32_t slot) { return !pages_.Has(slot); }),
                 spare_.end());
  }
  return static_cast<uint32_t>(unused.size());
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
  const auto in_block = std::count(slots, slots + run->tokens, FoundKeys::kInBlock);
  if (in_block == run->tokens) {
    SetPlace(PlaceInBlock(geometry_, block, kv_head, token), run);
  } else if (in_block == 0 && pages_.SideBySide({slots, run->tokens})) {
    SetPlace(pages_.PlaceOf(slots[0]), run);
  } else {
    uint8_t* const k = Gather(run->tokens * (row_bytes_ + value_bytes_));
    const KvPlace first = {k, k + (value_bytes_ > 0 ? run->tokens * row_bytes_ : geometry_.k_to_v())};
    for (uint32_t i = 0; i < run->tokens; ++i) {
      const bool here = slots[i] != FoundKeys::kInBlock;
      CopyRow(here ? pages_.PlaceOf(slots[i]) : PlaceInBlock(geometry_, block, kv_head, token + i),
              PlaceAfter(geometry_, first, i));
    }
    SetPlace(first, run);
  }
}

// A run has a group's keys at most, so it fits.
uint8_t* KeyCache::Gather(size_t bytes) {
  if (filling_ < scratch_.size() && scratch_[filling_].used + bytes > kScratchBytes) ++filling_;
  if (filling_ == scratch_.size()) scratch_.push_back({std::unique_ptr<uint8_t[]>(new uint8_t[kScratchBytes]), 0});
  Scratch& scratch = scratch_[filling_];
  uint8_t* const data = scratch.data.get() + scratch.used;
  scratch.used += bytes;
  return data;
}

}  // namespace hga
