#include "gpu_worker/engine/key_pages.h"

#include <algorithm>
#include <utility>

namespace hga {
namespace {

// One request to the store for so many; they are given back one by one.
constexpr uint64_t kPagesAtOnce = 32;

}  // namespace

KeyPages::KeyPages(const KvGeometry& geometry, uint64_t bytes, uint64_t beside, FromArena from_arena)
    : keys_per_page_(geometry.chunk_tokens * geometry.kv_heads), page_bytes_(geometry.block_bytes()),
      row_bytes_(geometry.row_bytes()),
      to_value_(geometry.scale_bytes() > 0 ? geometry.k_to_v() : keys_per_page_ * row_bytes_), bytes_(bytes),
      beside_(beside * keys_per_page_), from_arena_(std::move(from_arena)) {}

std::vector<uint32_t> KeyPages::Grow(uint64_t others, bool from_arena) {
  std::vector<uint32_t> pages;
  const uint64_t left = bytes_ - std::min(bytes_, used_ + others), for_arena = bytes_ / 8;
  if (page_bytes_ + beside_ + for_arena <= left) {
    Page page;
    page.own.reset(new uint8_t[page_bytes_]);  // not written here: memory is taken as it is used
    page.data = page.own.get();
    pages.push_back(Put(std::move(page)));
    used_ += page_bytes_;
  } else if (from_arena && !refused_ && beside_ <= left) {
    for (HeldBlock& block : from_arena_(static_cast<uint32_t>(std::min(left / beside_, kPagesAtOnce)))) {
      Page page;
      page.data = static_cast<uint8_t*>(block.data());
      page.held = std::move(block);
      pages.push_back(Put(std::move(page)));
      ++arena_pages_;
    }
    refused_ = pages.empty();
  }
  return pages;
}

uint32_t KeyPages::Put(Page page) {
  uint32_t number = static_cast<uint32_t>(pages_.size());
  if (given_back_.empty()) {
    pages_.emplace_back();
  } else {
    number = given_back_.back();
    given_back_.pop_back();
  }
  pages_[number] = std::move(page);
  slots_ += keys_per_page_;
  used_ += beside_;
  return number;
}

std::vector<uint32_t> KeyPages::ArenaPages() const {
  std::vector<uint32_t> pages;
  for (uint32_t i = 0; i < pages_.size(); ++i) {
    if (pages_[i].held) pages.push_back(i);
  }
  return pages;
}

void KeyPages::GiveBack(uint32_t page) {
  pages_[page] = Page();
  given_back_.push_back(page);
  --arena_pages_;
  slots_ -= keys_per_page_;
  used_ -= beside_;
}

KvPlace KeyPages::PlaceOf(uint32_t slot) const {
  const uint8_t* const key = pages_[slot / keys_per_page_].data + slot % keys_per_page_ * row_bytes_;
  return {key, key + to_value_};
}

bool KeyPages::SideBySide(absl::Span<const uint32_t> slots) const {
  for (size_t i = 1; i < slots.size(); ++i) {
    if (slots[i] != slots[0] + i) return false;
  }
  return slots.front() / keys_per_page_ == slots.back() / keys_per_page_;
}

}  // namespace hga
