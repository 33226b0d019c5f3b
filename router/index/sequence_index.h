// Summaries of one sequence, laid out for scoring: per layer and KV head the coarse parts of the chunks lie next to
// each other, and so do the fine parts. Grows by chunks in segments that never move, so that it can be read while it
// grows.
#ifndef HGA_ROUTER_INDEX_SEQUENCE_INDEX_H_
#define HGA_ROUTER_INDEX_SEQUENCE_INDEX_H_

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/kv/geometry.h"
#include "common/kv/ids.h"
#include "common/kv/summary.h"

namespace hga {

inline constexpr uint32_t kSegmentChunks = 64;
inline constexpr uint32_t kMaxSegments = 1024;
inline constexpr uint32_t kMaxSequenceChunks = kSegmentChunks * kMaxSegments;

// Any thread may append (one after the other) and read. A reader sees the chunks below chunks() complete.
class SequenceIndex {
 public:
  SequenceIndex(const KvGeometry& geometry, const SummaryMethod* method);
  SequenceIndex(const SequenceIndex&) = delete;
  SequenceIndex& operator=(const SequenceIndex&) = delete;

  // data: one chunk's summary data (common/kv/summary.h). A chunk that is there already is left as it is.
  // FAILED_PRECONDITION: a gap, or another chunk has this index. RESOURCE_EXHAUSTED: the sequence is too long.
  absl::Status Append(uint32_t chunk_index, const ChunkHash& chunk, absl::Span<const char> data);

  uint32_t chunks() const { return chunks_.load(std::memory_order_acquire); }
  const KvGeometry& geometry() const { return geometry_; }
  const SummaryMethod& method() const { return *method_; }
  // Bytes allocated for segments.
  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

  // Parts of a chunk below chunks(), aligned to 4 bytes; those of the chunks up to the end of its segment (SegmentEnd)
  // follow.
  const uint8_t* Coarse(uint32_t layer, uint32_t kv_head, uint32_t chunk) const {
    return Head(layer, kv_head, chunk) + size_t{chunk % kSegmentChunks} * coarse_bytes_;
  }
  const uint8_t* Fine(uint32_t layer, uint32_t kv_head, uint32_t chunk) const {
    return Head(layer, kv_head, chunk) + kSegmentChunks * coarse_bytes_ + size_t{chunk % kSegmentChunks} * fine_bytes_;
  }
  // SketchExtents of a chunk and those that follow, [kExtents] each; nullptr: the method has none.
  const int16_t* Extents(uint32_t layer, uint32_t kv_head, uint32_t chunk) const {
    if (method_->plan == nullptr) return nullptr;
    const uint8_t* of_head = Head(layer, kv_head, chunk) + kSegmentChunks * (coarse_bytes_ + fine_bytes_);
    return reinterpret_cast<const int16_t*>(of_head) + chunk % kSegmentChunks * kExtents;
  }
  // First chunk of the next segment.
  static uint32_t SegmentEnd(uint32_t chunk) { return (chunk / kSegmentChunks + 1) * kSegmentChunks; }

 private:
  struct FreeSegment {
    void operator()(uint8_t* segment) const { std::free(segment); }
  };
  using Segment = std::unique_ptr<uint8_t[], FreeSegment>;
  static Segment MakeSegment(uint32_t index, size_t bytes);

  const uint8_t* Head(uint32_t layer, uint32_t kv_head, uint32_t chunk) const {
    return segments_[chunk / kSegmentChunks].get() + (size_t{layer} * geometry_.kv_heads + kv_head) * head_bytes_;
  }

  // Constant after construction.
  const KvGeometry geometry_;
  const SummaryMethod* const method_;
  const size_t coarse_bytes_, fine_bytes_;  // of one chunk, layer and KV head
  const size_t head_bytes_;                 // of one (layer, KV head) in a segment

  std::mutex append_mu_;
  std::vector<ChunkHash> hashes_;  // guarded by append_mu_
  // [kMaxSegments]. An entry is written before chunks_ says so and never changed after.
  const std::unique_ptr<Segment[]> segments_;
  std::atomic<uint32_t> chunks_{0};
  std::atomic<uint64_t> bytes_{0};
};

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SEQUENCE_INDEX_H_
