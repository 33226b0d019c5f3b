#include "router/index/sequence_index.h"

#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"

namespace hga {

SequenceIndex::SequenceIndex(const KvGeometry& geometry, const SummaryMethod* method)
    : geometry_(geometry),
      method_(method),
      unit_(SummaryUnitElements(geometry, *method)),
      head_elements_(size_t{kSegmentChunks} * (1 + geometry.groups_per_chunk()) * unit_),
      segments_(std::make_unique<std::unique_ptr<bf16[]>[]>(kMaxSegments)) {}

absl::Status SequenceIndex::Append(uint32_t chunk_index, const ChunkHash& chunk, absl::Span<const bf16> data) {
  if (data.size() != SummaryElements(geometry_, *method_)) {
    return absl::InvalidArgumentError(absl::StrCat("summary of ", data.size() * sizeof(bf16), " bytes, expected ",
                                                   SummaryElements(geometry_, *method_) * sizeof(bf16)));
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
  std::unique_ptr<bf16[]>& segment = segments_[chunk_index / kSegmentChunks];
  if (segment == nullptr) {
    const size_t elements = size_t{geometry_.layers} * geometry_.kv_heads * head_elements_;
    // Not zeroed: pages that no chunk reaches are never touched.
    segment.reset(new (std::nothrow) bf16[elements]);
    if (segment == nullptr) return absl::ResourceExhaustedError("no memory for more of the index");
    bytes_.fetch_add(elements * sizeof(bf16), std::memory_order_relaxed);
  }
  const uint32_t groups = geometry_.groups_per_chunk(), place = chunk_index % kSegmentChunks;
  const bf16* in = data.data();
  bf16* head = segment.get();
  for (uint32_t i = 0; i < geometry_.layers * geometry_.kv_heads; ++i, head += head_elements_) {
    std::memcpy(head + place * unit_, in, unit_ * sizeof(bf16));
    in += unit_;
    std::memcpy(head + (size_t{kSegmentChunks} + size_t{place} * groups) * unit_, in, groups * unit_ * sizeof(bf16));
    in += groups * unit_;
  }
  hashes_.push_back(chunk);
  chunks_.store(chunk_index + 1, std::memory_order_release);
  return absl::OkStatus();
}

}  // namespace hga
