#include "gpu_worker/backend/cuda/summary_pages.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/status.h"

namespace hga {
namespace {

// What one call of Upload brings at most, unless a page is larger.
constexpr uint64_t kStagingBytes = uint64_t{8} << 20;

}  // namespace

SummaryPages::SummaryPages(Device* device, uint64_t chunk_bytes, uint32_t pages)
    : device_(device), chunk_bytes_(chunk_bytes), page_bytes_(DeviceBytes(chunk_bytes)), pages_(pages) {
  for (uint32_t p = 0; p < pages; ++p) pages_[p].idle = idle_.insert(idle_.end(), p);
}

absl::StatusOr<std::unique_ptr<SummaryPages>> SummaryPages::Create(Device* device, DeviceMemory* memory,
                                                                   uint64_t chunk_bytes, uint32_t pages) {
  std::unique_ptr<SummaryPages> out(new SummaryPages(device, chunk_bytes, pages));
  HGA_ASSIGN_OR_RETURN(out->memory_, memory->Allocate(DeviceUse::kSummaries, Bytes(chunk_bytes, pages)));
  const uint64_t staged = std::clamp<uint64_t>(kStagingBytes / out->page_bytes_, 1, pages);
  HGA_ASSIGN_OR_RETURN(out->staging_, PinnedBuffer::Allocate(device, staged * out->page_bytes_));
  HGA_ASSIGN_OR_RETURN(out->staged_, device->NewEvent());
  return out;
}

uint32_t SummaryPages::Take(const ChunkHash& chunk) {
  std::lock_guard<std::mutex> lock(mu_);
  return TakeLocked(chunk);
}

uint32_t SummaryPages::TakeLocked(const ChunkHash& chunk) {
  const auto found = by_chunk_.find(chunk);
  if (found == by_chunk_.end()) return kNone;
  Page& page = pages_[found->second];
  if (page.takers++ == 0) idle_.erase(page.idle);
  return found->second;
}

uint32_t SummaryPages::Put(const ChunkHash& chunk, const std::string& data) {
  if (data.size() != chunk_bytes_) return kNone;
  std::lock_guard<std::mutex> lock(mu_);
  if (const uint32_t there = TakeLocked(chunk); there != kNone) return there;
  if (idle_.empty()) return kNone;
  const uint32_t number = idle_.front();
  Page& page = pages_[number];
  if (page.used) by_chunk_.erase(page.chunk);
  idle_.pop_front();
  page.chunk = chunk;
  page.used = true;
  page.ready = false;
  page.takers = 1;
  page.data = data;
  by_chunk_[chunk] = number;
  put_.push_back(number);
  return number;
}

void SummaryPages::Release(uint32_t number) {
  std::lock_guard<std::mutex> lock(mu_);
  Page& page = pages_[number];
  if (--page.takers == 0) page.idle = idle_.insert(idle_.end(), number);
}

bool SummaryPages::HasRoom() const {
  std::lock_guard<std::mutex> lock(mu_);
  return !idle_.empty();
}

// A page gets other data only behind what read the old: kRoute does both, in order.
absl::Status SummaryPages::Upload() {
  std::lock_guard<std::mutex> lock(mu_);
  if (put_.empty()) return absl::OkStatus();
  HGA_RETURN_IF_ERROR(device_->Synchronize(staged_));  // the buffer is used again
  for (size_t at = 0; !put_.empty() && at + page_bytes_ <= staging_.bytes();) {
    const uint32_t number = put_.front();
    put_.pop_front();
    Page& page = pages_[number];
    if (page.ready) continue;  // put twice, brought once
    std::memcpy(staging_.as() + at, page.data.data(), chunk_bytes_);
    HGA_RETURN_IF_ERROR(device_->CopyToDevice(DeviceStream::kRoute, memory_.as() + number * page_bytes_,
                                              staging_.as() + at, chunk_bytes_));
    page.ready = true;
    page.data = std::string();
    at += page_bytes_;
  }
  return device_->Record(staged_, DeviceStream::kRoute);
}

uint32_t SummaryPages::ReadyUpto(absl::Span<const uint32_t> pages, uint32_t first) const {
  std::lock_guard<std::mutex> lock(mu_);
  while (first < pages.size() && pages[first] != kNone && pages_[pages[first]].ready) ++first;
  return first;
}

}  // namespace hga
