#include "router/index/sequence_index.h"

#include <sys/mman.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace hga {

SequenceIndex::SequenceIndex(const KvGeometry& geometry, const SummaryMethod* method)
    : geometry_(geometry),
      method_(method),
      coarse_bytes_(method->coarse_bytes(geometry)),
      fine_bytes_(method->fine_bytes(geometry)),
      head_bytes_(kSegmentChunks * (coarse_bytes_ + fine_bytes_ + method->extents_bytes())),
      segments_(std::make_unique<Segment[]>(kMaxSegments)) {}

// Not zeroed. In huge pages, since selection jumps about in them; not the first, of which a short sequence touches few
// pages and shall have no more. nullptr: no memory.
SequenceIndex::Segment SequenceIndex::MakeSegment(uint32_t index, size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  if (index == 0 || bytes < kHugePage) return Segment(static_cast<uint8_t*>(std::malloc(bytes)));
  const size_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  Segment segment(static_cast<uint8_t*>(std::aligned_alloc(kHugePage, whole)));
  // Where it cannot be had, pages are small. The last part of one is.
  if (segment != nullptr) ::madvise(segment.get(), bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return segment;
}

absl::Status SequenceIndex::Append(uint32_t chunk_index, const ChunkHash& chunk, absl::Span<const char> data) {
  if (data.size() != method_->chunk_bytes(geometry_)) {
    return absl::InvalidArgumentError(
        absl::StrCat("summary of ", data.size(), " bytes, expected ", method_->chunk_bytes(geometry_)));
  }
  std::lock_guard<std::mutex> lock(append_mu_);
  if (chunk_index < hashes_.size()) {
    if (hashes_[chunk_index] == chunk) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("chunk ", chunk_index, " of the sequence is another one; close and open it again"));
  }
  if (chunk_index > hashes_.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("gap: the next summary is of chunk ", hashes_.size(), ", not ", chunk_index));
  }
  if (chunk_index >= kMaxSequenceChunks) {
    return absl::ResourceExhaustedError(absl::StrCat("a sequence has at most ", kMaxSequenceChunks, " chunks"));
  }
  Segment& segment = segments_[chunk_index / kSegmentChunks];
  if (segment == nullptr) {
    const size_t bytes = size_t{geometry_.layers} * geometry_.kv_heads * head_bytes_;
    segment = MakeSegment(chunk_index / kSegmentChunks, bytes);
    if (segment == nullptr) return absl::ResourceExhaustedError("no memory for more of the index");
    bytes_.fetch_add(bytes, std::memory_order_relaxed);
  }
  const size_t place = chunk_index % kSegmentChunks;
  const char* in = data.data();
  uint8_t* head = segment.get();
  const std::vector<int16_t> extents =
      ChunkExtents(geometry_, *method_, reinterpret_cast<const uint8_t*>(data.data()));
  for (uint32_t i = 0; i < geometry_.layers * geometry_.kv_heads; ++i, head += head_bytes_) {
    std::memcpy(head + place * coarse_bytes_, in, coarse_bytes_);
    in += coarse_bytes_;
    std::memcpy(head + kSegmentChunks * coarse_bytes_ + place * fine_bytes_, in, fine_bytes_);
    in += fine_bytes_;
    if (extents.empty()) continue;
    uint8_t* of_head = head + kSegmentChunks * (coarse_bytes_ + fine_bytes_);
    std::memcpy(of_head + place * method_->extents_bytes(), &extents[i * kExtents], method_->extents_bytes());
  }
  hashes_.push_back(chunk);
  chunks_.store(chunk_index + 1, std::memory_order_release);
  return absl::OkStatus();
}

}  // namespace hga
