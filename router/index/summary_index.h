// All sequences that the router knows, and the summaries it remembers by content.
#ifndef HGA_ROUTER_INDEX_SUMMARY_INDEX_H_
#define HGA_ROUTER_INDEX_SUMMARY_INDEX_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/ids.h"
#include "common/kv/summary.h"
#include "router/index/sequence_index.h"
#include "router/index/summary_cache.h"

namespace hga {

using SummarySink = std::function<void(const ChunkHash& chunk, const std::string& method, const std::string& data)>;
// Summaries of `chunks` in order, up to the first that is not there. Blocks; thread-safe.
using SummarySource = std::function<absl::Status(absl::Span<const ChunkHash> chunks, const SummarySink& sink)>;

struct SummaryIndexOptions {
  uint64_t cache_bytes = uint64_t{256} << 20;
  uint32_t max_sequences = 1024;
};

struct OpenedSequence {
  uint32_t indexed_chunks = 0;
  uint32_t from_memory_chunks = 0;
};

// Thread-safe. Sequences belong to workers; ids of different workers do not meet.
class SummaryIndex {
 public:
  // `source` may be empty: then only memory is asked.
  SummaryIndex(const SummaryIndexOptions& options, SummarySource source);

  // Replaces a sequence of the same id. Gets the longest prefix of `chunks` that memory and the source have; a source
  // that fails shortens it. RESOURCE_EXHAUSTED: too many sequences.
  absl::StatusOr<OpenedSequence> Open(uint64_t worker_id, uint64_t sequence_id, const KvGeometry& geometry,
                                      const SummaryMethod* method, absl::Span<const ChunkHash> chunks);
  // data: as in common/kv/summary.h. NOT_FOUND: no such sequence; else as SequenceIndex::Append. Returns the
  // number of chunks indexed.
  absl::StatusOr<uint32_t> Append(uint64_t worker_id, uint64_t sequence_id, uint32_t chunk_index,
                                  const ChunkHash& chunk, const std::string& data);
  void Close(uint64_t worker_id, uint64_t sequence_id);
  void CloseWorker(uint64_t worker_id);

  // nullptr: not open. The caller's pointer keeps it alive when it is closed meanwhile.
  std::shared_ptr<SequenceIndex> Find(uint64_t worker_id, uint64_t sequence_id) const;

  struct Totals {
    uint64_t sequences = 0;
    uint64_t chunks = 0;
    uint64_t bytes = 0;  // sequences and cache
    uint64_t rebuilt_chunks = 0;
  };
  Totals totals() const;

 private:
  using Key = std::pair<uint64_t, uint64_t>;
  using SequencePtr = std::shared_ptr<SequenceIndex>;

  uint32_t FromMemory(SequenceIndex* sequence, absl::Span<const ChunkHash> chunks);
  bool FromSource(SequenceIndex* sequence, absl::Span<const ChunkHash> chunks);

  const SummaryIndexOptions options_;
  const SummarySource source_;
  SummaryCache cache_;
  std::atomic<uint64_t> rebuilt_chunks_{0};

  mutable std::mutex mu_;
  absl::flat_hash_map<Key, SequencePtr> sequences_;  // guarded by mu_
};

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SUMMARY_INDEX_H_
